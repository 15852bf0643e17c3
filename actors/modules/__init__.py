"""The built-in module types."""
