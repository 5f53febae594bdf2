"""Writing files whole, and errors that name the file when the disk is full or read-only."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastass.errors import UserError
from fastass.pipelines.durable import write_durably
from fastass.pipelines.file_lock import locked


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """UserError naming `path` if a write inside the context fails."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't write: {error.strerror or error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a small file atomically: also after a power cut it is either the old one or whole.

    Raises UserError if it can't be written; the old file then stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        write_durably(path, text.encode(), temporary)


def write_in_turn(path: Path, text: str) -> None:
    """`write_whole` where several processes may write `path` at the same time: one by one.

    Otherwise one of them could rename the temporary file that another has only begun.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path), locked(lock, f"writing {path.name}", wait=True):
        write_whole(path, text)
