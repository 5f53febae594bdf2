"""Writing to a disk that may be full or read-only: whole files, and errors that name them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastass.errors import UserError
from fastass.pipelines.durable import write_durably


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """UserError naming `path` where the disk refuses what is written inside."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't write: {error.strerror or error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a small file: never half of it under its own name, also across a power cut.

    Raises UserError when the disk refuses; what was there before then stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        write_durably(path, text.encode(), temporary)
