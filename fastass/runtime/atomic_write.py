"""Writing files whole, and errors that name the file when the disk is full or read-only."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fastass.errors import UserError
from fastass.pipelines.durable import write_durably
from fastass.pipelines.file_lock import locked

HEAD = 4096  # bytes of a file in which its mark must stand


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """UserError naming `path` if a write inside the context fails."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't write: {error.strerror or error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a small file atomically: also after a power cut it is either the old one or whole.

    Undecodable bytes of a path in the text are written as escapes, as `printable` shows them.
    Raises UserError if it can't be written; the old file then stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        write_durably(path, text.encode(errors="backslashreplace"), temporary)


def check_replaceable(path: Path, mark: str, what: str) -> None:
    """UserError unless `path` is free, or a file that fastass wrote, with `mark` near its start.

    A user's own file, a device and a folder are never replaced. what: a file with that mark is.
    For before long work; so the folder of `path` must be there too.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such directory, for {path.name}")
    if not os.path.lexists(path):
        return
    with writing(path):
        ours = path.is_file() and mark in _head(path)
    if not ours:
        raise UserError(f"{path}: exists and is not {what}; move it away, or give another name")


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEAD).decode(errors="replace")


def write_in_turn(path: Path, text: str) -> None:
    """`write_whole` where several processes may write `path` at the same time: one by one.

    Otherwise one of them could rename the temporary file that another has only begun.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path), locked(lock, f"writing {path.name}", wait=True):
        write_whole(path, text)
