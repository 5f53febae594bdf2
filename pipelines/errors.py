"""The error that bad data raises."""


class DataError(ValueError):
    """Bad input data. The message is one line for the user: what, where, and the remedy."""
