"""The module types that come with this package."""
