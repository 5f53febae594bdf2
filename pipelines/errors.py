"""The error for bad input data."""


class DataError(ValueError):
    """Bad input data. The message is one line: what is wrong, where, and what to do.

    Names of files end up in messages, and a name may hold anything but a slash: characters that
    would move a terminal's cursor or break the line are shown as escapes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` with control characters, line breaks and undecodable bytes as escapes: `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
