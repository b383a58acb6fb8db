"""A run for other programs, a format a module; each gives the bytes of a file."""
