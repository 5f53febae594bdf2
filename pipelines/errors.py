"""The error for bad input data."""


class DataError(ValueError):
    """Bad input data. The message is one line: what is wrong, where, and what to do."""
