"""Files that are whole or absent under their own name, also after a kill or a power cut.

Everything that must survive (checkpoints, run directories, packed data sets) is written this way:
under a temporary name, synced to the disk, renamed; then the directory is synced, which makes the
new name durable. All functions let OSError through; the caller says what it means.
"""

import os
from pathlib import Path
from typing import IO

from fastass.pipelines.new_file import open_new

PART = ".part"


def write_durably(path: Path, data: bytes, temporary: Path | None = None) -> None:
    """Write `path` whole or not at all: what was there before stays until the new file is synced.

    temporary: in the same directory (default: `path` with `.part` after it). It is removed where
    the disk refuses; a kill may leave it.
    """
    temporary = temporary or path.with_name(f"{path.name}{PART}")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file, under a name that nobody reads yet, and wait until it is on the disk."""
    with open_new(path) as file:
        file.write(data)
        _sync(file)


def publish(file: IO[bytes], path: Path) -> None:
    """Close a file that was written under a temporary name, and rename it to `path`."""
    with file:
        _sync(file)
    os.replace(file.name, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Wait until the directory's entries (new names, renames, removals) are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
