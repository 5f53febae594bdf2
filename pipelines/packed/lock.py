"""`packing.json`: marks a directory as being packed, with which settings, and by whom."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastass.pipelines.durable import PART, sync_directory, write_durably
from fastass.pipelines.errors import DataError
from fastass.pipelines.file_lock import locked
from fastass.pipelines.packed.files import read_file
from fastass.pipelines.packed.index import ShardIndex, digest, index_name, shard_name
from fastass.pipelines.packed.manifest import MANIFEST, UNFINISHED, Manifest, PackSettings

LOCK = "packing.lock"  # exists while a process packs into the directory


@contextmanager
def claim(out: Path, settings: PackSettings) -> Iterator[Path]:
    """Mark `out` as being packed, by this process only.

    The lock `out/packing.lock` is taken before anything is read or written. Yields the mark,
    `out/packing.json`: readers refuse a directory with a mark. The mark survives a kill; `release`
    removes it. Raises DataError if `out` holds other files, if it was packed or begun with other
    settings, and if another process is packing into it.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, "packing into it"):
        mark = out / UNFINISHED
        if mark.exists():
            _compare(out, settings, _read_mark(mark))
        else:
            _check_content(out, settings)
            write_durably(mark, (json.dumps(settings.to_json(), indent=1) + "\n").encode())
        yield mark


def release(mark: Path) -> None:
    """Remove the mark: the directory is finished."""
    mark.unlink()
    sync_directory(mark.parent)


def _read_mark(mark: Path) -> PackSettings:
    data = read_file(mark, "run the command again")
    try:
        return PackSettings.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"{mark}: is damaged; remove {mark.parent} and pack the data set again"
        ) from None


def _check_content(out: Path, settings: PackSettings) -> None:
    """Raise DataError unless `out` is empty, or finished with the same settings."""
    manifest = out / MANIFEST
    if manifest.exists():
        _check_manifest(manifest, settings)
    elif any(entry.suffix != PART and entry.name != LOCK for entry in [*out.iterdir()]):
        raise DataError(f"{out}: is not empty, and holds no packed data set; choose another --out")


def _check_manifest(path: Path, settings: PackSettings) -> None:
    """Raise DataError for other settings. If the manifest is damaged, an index may prove them."""
    try:
        earlier = Manifest.decode(read_file(path, ""), path).settings
    except DataError:
        if not _fits(path.with_name(index_name(0)), settings):
            raise
    else:
        _compare(path.parent, settings, earlier)


def _fits(index: Path, settings: PackSettings) -> bool:
    try:
        content = ShardIndex.decode(read_file(index, ""), index, shard_name(0))
    except DataError:
        return False
    return content.settings == digest(settings.to_json())


def _compare(out: Path, settings: PackSettings, earlier: PackSettings) -> None:
    if changes := earlier.differences(settings):
        raise DataError(
            f"{out}: was packed with {changes[0]}; choose another --out, or remove this directory"
        )
