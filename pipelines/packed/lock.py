"""`packing.json`: marks a directory as being packed, with which settings, and by whom."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastass.pipelines.durable import PART, sync_directory, write_durably
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.files import read_file
from fastass.pipelines.packed.index import ShardIndex, digest, index_name, shard_name
from fastass.pipelines.packed.manifest import MANIFEST, UNFINISHED, Manifest, PackSettings


@contextmanager
def claim(out: Path, settings: PackSettings) -> Iterator[Path]:
    """Make `out` a directory that is being packed, by this process alone.

    Yields the mark, `out/packing.json`, which readers refuse and which survives a kill;
    `release` removes it. Raises DataError: `out` holds other files, was packed or
    begun with other settings, or another process packs into it now.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    mark = out / UNFINISHED
    if not mark.exists():
        path = out / MANIFEST
        if path.exists():
            _check_manifest(path, settings)
        elif any(entry.suffix != PART for entry in out.iterdir()):
            raise DataError(
                f"{out}: is not empty, and holds no packed data set; choose another --out"
            )
        write_durably(mark, (json.dumps(settings.to_json(), indent=1) + "\n").encode())
    with mark.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another process is packing into it") from None
        if not mark.exists() or os.stat(mark).st_ino != os.fstat(file.fileno()).st_ino:
            raise DataError(
                f"{out}: another process has just packed into it; run the command again"
            )
        try:
            earlier = PackSettings.from_json(json.load(file))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{mark}: is damaged; remove {out} and pack the data set again"
            ) from None
        _compare(out, settings, earlier)
        yield mark


def release(mark: Path) -> None:
    """Remove the mark: the directory is finished."""
    mark.unlink()
    sync_directory(mark.parent)


def _check_manifest(path: Path, settings: PackSettings) -> None:
    """Raise DataError for other settings. A damaged manifest will do where a shard's index fits."""
    try:
        earlier = Manifest.decode(read_file(path, ""), path).settings
    except DataError:
        if not _fits(path.with_name(index_name(0)), settings):
            raise
    else:
        _compare(path.parent, settings, earlier)


def _fits(index: Path, settings: PackSettings) -> bool:
    try:
        found = ShardIndex.decode(read_file(index, ""), index, shard_name(0))
    except DataError:
        return False
    return found.settings == digest(settings.to_json())


def _compare(out: Path, settings: PackSettings, earlier: PackSettings) -> None:
    if found := earlier.differences(settings):
        raise DataError(
            f"{out}: was packed with {found[0]}; choose another --out, or remove this directory"
        )
