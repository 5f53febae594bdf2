"""Writes tar shards: member names, reproducible headers, durable files."""

import json
import os
import re
import tarfile
from pathlib import Path
from typing import IO, NamedTuple

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.durable import PART, publish
from fastass.pipelines.new_file import open_new
from fastass.pipelines.packed.index import Member, Record, ShardIndex
from fastass.pipelines.packed.manifest import PackSettings

BLOCK = 512
TRAILER = bytes(2 * BLOCK)
IMAGE_SUFFIX = {"jpeg": ".jpg", "png": ".png"}
LABEL_SUFFIX = {"raw": ".seg.raw", "png": ".seg.png"}
META_SUFFIX = ".json"


class EncodedMember(NamedTuple):
    """The bytes of one member and their CRC-32."""

    data: bytes
    crc32: int


def record_key(number: int, name: str) -> str:
    """The common stem of a sample's members. The number makes it unique.

    It has no dot (WebDataset's extension starts at the first one), no slash, and at most 80 bytes
    (ustar allows 100).
    """
    return f"{number:07d}-{re.sub('[^A-Za-z0-9_-]+', '-', name)[-72:]}"


def suffixes(settings: PackSettings, record: Record) -> tuple[str, ...]:
    """The suffixes of the record's members, in their order: a member is named key + suffix."""
    label = () if record.label is None else (LABEL_SUFFIX[str(settings.label)],)
    return (IMAGE_SUFFIX[settings.image], *label, META_SUFFIX)


def record_meta(name: str, settings: PackSettings) -> bytes:
    """The JSON member of a sample, for readers that do not use the manifest."""
    width, height = settings.size
    return json.dumps({"name": name, "width": width, "height": height}).encode()


def member_header(name: str, size: int) -> bytes:
    """A ustar header without time and owner: the same content gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padding(size: int) -> int:
    """Bytes from the end of a member to the next block."""
    return -size % BLOCK


class EncodedSample(NamedTuple):
    """The members of one record. histogram: pixels per value 0–255 of the stored label."""

    image: EncodedMember
    label: EncodedMember | None
    meta: EncodedMember
    histogram: tuple[int, ...] | None


class ShardWriter:
    """Writes one tar under a temporary name. `finish` renames it; otherwise it is removed."""

    def __init__(self, path: Path, settings: PackSettings) -> None:
        self.path = path
        self.records: list[Record] = []
        self._settings = settings
        self._file: IO[bytes] = open_new(f"{path}{PART}")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            self._file.close()
            os.unlink(self._file.name)

    def add(self, key: str, name: str, sample: EncodedSample) -> None:
        """Append the members of one sample."""
        image = IMAGE_SUFFIX[self._settings.image]
        label = LABEL_SUFFIX.get(str(self._settings.label))
        self.records.append(
            Record(
                key,
                name,
                self._append(f"{key}{image}", sample.image),
                self._append(f"{key}{label}", sample.label) if sample.label else None,
                self._append(f"{key}{META_SUFFIX}", sample.meta),
                None if sample.histogram is None else self._per_class(sample.histogram),
            )
        )

    def finish(self) -> int:
        """Make the tar durable under its final name; returns its size in bytes."""
        self._file.write(TRAILER)
        size = self._file.tell()
        publish(self._file, self.path)
        return size

    def _per_class(self, histogram: tuple[int, ...]) -> tuple[int, ...]:
        return (*histogram[: len(self._settings.classes)], histogram[IGNORE])

    def _append(self, name: str, member: EncodedMember) -> Member:
        size = len(member.data)
        self._file.write(member_header(name, size))
        offset = self._file.tell()
        self._file.write(member.data)
        self._file.write(bytes(padding(size)))
        return Member(offset, size, member.crc32)


def dali_index(index: ShardIndex, settings: PackSettings) -> bytes:
    """The text that DALI's `wds2idx` (v1.2) writes for the shard."""
    lines = [f"v1.2 {len(index.records)}"]
    for record in index.records:
        parts = [
            f"{suffix[1:]} {member.offset} {member.size} {record.key}{suffix}"
            for suffix, member in zip(suffixes(settings, record), record.members, strict=True)
        ]
        lines.append(" ".join(parts))
    return ("\n".join(lines) + "\n").encode()
