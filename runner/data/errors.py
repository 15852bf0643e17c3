"""The exception of everything that reads or checks data."""


class DataError(ValueError):
    """Data that cannot be used; the message is one sentence for the user."""
