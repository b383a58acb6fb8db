"""A run for other programs: one module per format, each of which gives the bytes of a file."""
