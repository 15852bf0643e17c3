"""The exception of everything that reads or checks data."""

EXACT = 2**53
"""Beyond this, float64 does not represent every integer."""


class DataError(ValueError):
    """Data that cannot be used; the message is one sentence for the user."""
