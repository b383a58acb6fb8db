"""What was counted per op: one module per source."""
