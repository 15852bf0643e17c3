"""Model files: reading, checking and error messages."""
