"""The error for bad input data."""

LONGEST = 8000  # characters of a message: the longest path has 4095


class DataError(ValueError):
    """Bad input data. The message is one line: what is wrong, where, and what to do.

    Names of files end up in messages, and a name may hold anything but a slash: characters that
    would move a terminal's cursor or break the line are shown as escapes. A message that quotes too
    much of a damaged file is shortened.
    """

    def __init__(self, message: str) -> None:
        text = printable(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
        super().__init__(text)


def one_line(text: object, longest: int | None = None) -> str:
    """A text, or the message of a library's error, without line breaks; its first characters."""
    return " ".join(str(text).split())[:longest]


def printable_lines(text: str) -> str:
    """As `printable`, for a text of several lines, such as a table."""
    return "\n".join(map(printable, text.split("\n")))


def printable(text: str) -> str:
    """`text` with control characters, line breaks and undecodable bytes as escapes: `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
