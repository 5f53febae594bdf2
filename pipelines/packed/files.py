"""Reads the files of a packed directory and compares them with its manifest.

The on-disk format is described in `fastass.pipelines.packed.dataset`.
"""

import mmap
from hashlib import sha256
from pathlib import Path

from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.index import AGAIN, ShardIndex, index_name, shard_name
from fastass.pipelines.packed.manifest import MANIFEST, UNFINISHED, Manifest, PackSettings


def read_manifest(root: Path) -> Manifest:
    """The manifest of a finished directory; raises DataError otherwise."""
    if (root / UNFINISHED).exists():
        raise DataError(
            f"{root}: is not finished: it is still being packed, or packing was interrupted; "
            f"{AGAIN} to finish it"
        )
    path = root / MANIFEST
    return Manifest.decode(read_file(path, f"{root} holds no packed data set"), path)


def read_index(root: Path, number: int, manifest: Manifest) -> ShardIndex:
    """The index of one shard, checked against the manifest; raises DataError."""
    path = root / index_name(number)
    data = read_file(path, f"{AGAIN} to rewrite it")
    index = ShardIndex.decode(data, path, shard_name(number))
    if sha256(data).hexdigest() != manifest.shards[number].sha256:
        raise DataError(
            f"{path}: its checksum differs from the manifest's: the index is damaged, or belongs "
            f"to another packed data set; {AGAIN} to rewrite it"
        )
    check_index(index, manifest.settings, path)
    return index


def check_index(index: ShardIndex, settings: PackSettings, path: Path) -> None:
    """Raise DataError, naming `path`, unless the index may belong to a directory of `settings`."""
    if len(index.class_pixels) != len(settings.classes):
        raise DataError(f"{path}: is damaged: class pixels of another number of classes")
    length = len(settings.classes) + 1
    if any(r.histogram is not None and len(r.histogram) != length for r in index.records):
        raise DataError(f"{path}: is damaged: a histogram of another number of classes")
    if settings.label is None and any(record.label for record in index.records):
        raise DataError(f"{path}: is damaged: has labels, and the data set has none")


def read_file(path: Path, missing: str) -> bytes:
    """The file's bytes; DataError when it is missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: is missing; {missing}") from None
    except OSError as error:
        raise DataError(f"{path}: is not readable: {error.strerror}") from None


def check_size(path: Path, size: int) -> None:
    """Raise DataError unless the file exists and has `size` bytes."""
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {AGAIN} to rewrite the shard") from None
    if actual != size:
        state = "truncated" if actual < size else "changed"
        raise DataError(
            f"{path}: has {actual} bytes, not {size}: the shard is {state}; {AGAIN} to rewrite it"
        )


def map_shard(path: Path, size: int) -> mmap.mmap:
    """The shard's bytes, read-only; DataError unless it has `size` of them."""
    check_size(path, size)
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path}: cannot be memory-mapped: {error.strerror}") from None
