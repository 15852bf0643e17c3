"""Model files: reading, validation and error messages."""
