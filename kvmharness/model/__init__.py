"""What there is to measure and what was measured: plain data, light enough for any kernel."""
