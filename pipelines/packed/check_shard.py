"""Compares one shard with its index, byte for byte."""

import mmap
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.files import check_size, read_file
from fastass.pipelines.packed.index import Record, ShardIndex
from fastass.pipelines.packed.manifest import PackSettings
from fastass.pipelines.packed.shard_writer import (
    BLOCK,
    TRAILER,
    dali_index,
    member_header,
    padding,
    record_meta,
    suffixes,
)


class Damage(NamedTuple):
    """One fault. record: the key of the record, or empty if a whole file is affected."""

    file: str
    record: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: " + (f"record {self.record}: " if self.record else "") + self.reason


def check_shard(root: Path, index: ShardIndex, settings: PackSettings) -> Iterator[Damage]:
    """Every difference between the tar and its index: size, headers, checksums, padding, end.

    Records after a damaged one are still checked. Nothing is extracted by name.
    """
    path = root / index.shard
    try:
        check_size(path, index.size)
    except DataError as error:
        yield Damage(path.name, "", reason(error, path))
    if path.is_file() and path.stat().st_size > 0:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
            end = 0
            for record in index.records:
                for fault in _check_record(tar, end, record, settings):
                    yield Damage(path.name, record.key, fault)
                last = record.members[-1]
                end = last.offset + last.size + padding(last.size)
            if len(tar) == index.size and tar[end:] != TRAILER:
                yield Damage(path.name, "", "the tar continues after its last record")
    sidecar = path.with_suffix(".idx")
    try:
        if read_file(sidecar, "DALI's own reader needs it") != dali_index(index, settings):
            yield Damage(sidecar.name, "", "does not match its shard")
    except DataError as error:
        yield Damage(sidecar.name, "", reason(error, sidecar))


def reason(error: DataError, where: object) -> str:
    """The text of the error without its leading place, which a Damage names itself."""
    return str(error).removeprefix(f"{where}: ")


def _check_record(
    tar: mmap.mmap, start: int, record: Record, settings: PackSettings
) -> Iterator[str]:
    for suffix, member in zip(suffixes(settings, record), record.members, strict=True):
        end = member.offset + member.size
        if member.offset != start + BLOCK:
            yield f"the index puts {suffix} at byte {member.offset}, not {start + BLOCK}"
        start = end + padding(member.size)
        if start > len(tar):
            yield f"{suffix} lies beyond the end of the file"
            continue
        header = tar[member.offset - BLOCK : member.offset]
        if header != member_header(record.key + suffix, member.size):
            yield _explain(header, record.key + suffix)
        if zlib.crc32(memoryview(tar)[member.offset : end]) != member.crc32:
            yield f"wrong checksum of {suffix}"
        elif suffix == ".json" and tar[member.offset : end] != record_meta(record.name, settings):
            yield "its .json belongs to another sample"
        if any(tar[end:start]):
            yield f"the padding after {suffix} is not empty"


def _explain(header: bytes, expected: str) -> str:
    """Why a tar header differs from the one that was written."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return f"the tar header of {expected} is damaged: {error}"
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts:
        return f"tar member {info.name!r} would leave the directory; don't extract this shard"
    if not info.isreg():
        return f"tar member {info.name!r} is a link or a special file; don't extract this shard"
    if info.name != expected:
        return f"tar member {info.name!r} found where the index has {expected!r}"
    return f"the tar header of {expected} was changed"
