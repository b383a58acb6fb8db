"""What was counted per op: one module a source."""
