"""`shard-00000.json`: where each record is in its shard; how JSON files are checked.

The on-disk format is described in `fastass.pipelines.packed.dataset`.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from reprlib import repr as repr_short
from typing import Any, NamedTuple, TypeVar

from fastass.pipelines.errors import DataError, one_line

FORMAT = "fastass-packed"
VERSION = 1
AGAIN = "run the same `fastass pack` command again"

_KEY = re.compile(r"[0-9]{7,20}-[A-Za-z0-9_-]{0,72}")  # see `record_key`

T = TypeVar("T")


class Member(NamedTuple):
    """One file inside a shard: the position of its bytes in the tar, and their CRC-32."""

    offset: int
    size: int
    crc32: int


class Record(NamedTuple):
    """One sample inside a shard. name: of the sample; key: common stem of its tar members.

    histogram: pixels of its label per train id, and those of `IGNORE` at the end. None: it has no
    label, or an earlier fastass packed it.
    """

    key: str
    name: str
    image: Member
    label: Member | None
    meta: Member
    histogram: tuple[int, ...] | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        """In the order of the tar."""
        return tuple(m for m in (self.image, self.label, self.meta) if m is not None)


class BadSample(NamedTuple):
    """A sample that could not be packed."""

    name: str
    reason: str


@dataclass(frozen=True)
class ShardIndex:
    """`shard-00000.json`: the records of one shard and the class pixels of their labels.

    size: bytes of the tar. settings: SHA-256 of the settings. source: SHA-256 of the names of its
    samples and the sizes of their files.
    class_pixels: pixels per train id; ignored_pixels: pixels of `IGNORE`.
    """

    shard: str
    size: int
    settings: str
    source: str
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    bad: tuple[BadSample, ...]
    records: tuple[Record, ...]

    def encode(self) -> bytes:
        """JSON, one record per line, with the SHA-256 of everything else in it.

        Histograms are a list of their own, which earlier readers pass over; without any, the bytes
        are those that an earlier fastass wrote.
        """
        head = {"format": FORMAT, "version": VERSION} | asdict(replace(self, records=()))
        rows: dict[str, list[Any]] = {"records": [record[:-1] for record in self.records]}
        if any(record.histogram is not None for record in self.records):
            rows["histograms"] = [record.histogram for record in self.records]
        head["sha256"] = digest(head | rows)
        del head["records"]
        tables = [
            f'"{name}": [\n' + ",\n".join(map(json.dumps, lines)) + "\n]"
            for name, lines in rows.items()
        ]
        return f"{json.dumps(head)[:-1]}, {', '.join(tables)}}}\n".encode()

    @classmethod
    def decode(cls, data: bytes, path: Path, shard: str) -> "ShardIndex":
        """Raises DataError for damage, another version and the index of another shard."""

        def build(tree: dict[str, Any]) -> ShardIndex:
            histograms = tree.get("histograms", [None] * len(tree["records"]))
            rows = zip(tree["records"], histograms, strict=True)
            return cls(
                shard=text(tree["shard"]),
                size=natural(tree["size"]),
                settings=text(tree["settings"]),
                source=text(tree["source"]),
                class_pixels=tuple(map(natural, tree["class_pixels"])),
                ignored_pixels=natural(tree["ignored_pixels"]),
                bad=tuple(BadSample(*map(text, bad)) for bad in tree["bad"]),
                records=tuple(_record(histogram, *row) for row, histogram in rows),
            )

        index = decode(data, path, build)
        if index.shard != shard:
            raise DataError(
                f"{path}: is the index of {index.shard}, not of {shard}; {AGAIN} to rewrite it"
            )
        for record in index.records:
            if any(m.offset + m.size > index.size for m in record.members):
                raise DataError(f"{path}: record {record.key} is outside {shard}")
        return index


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def index_name(number: int) -> str:
    return f"shard-{number:05d}.json"


def digest(value: object) -> str:
    """SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def natural(value: object) -> int:
    """A JSON value that must be a number 0, 1, 2, … Raises ValueError."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{repr_short(value)} is no size or count")
    return value


def text(value: object) -> str:
    """A JSON value that must be a text, no longer than a path. Raises ValueError."""
    if type(value) is not str or len(value) > 4096:
        raise ValueError(f"{repr_short(value)} is no text")
    return value


def _record(histogram: Any, key: object, name: object, image: Any, label: Any, meta: Any) -> Record:
    if not _KEY.fullmatch(text(key)):
        raise ValueError(f"{repr_short(key)} is no key of a record")
    return Record(
        text(key),
        text(name),
        _member(image),
        _member(label) if label else None,
        _member(meta),
        None if histogram is None else tuple(map(natural, histogram)),
    )


def _member(row: Any) -> Member:
    return Member(*map(natural, row))


def decode(data: bytes, path: Path, build: Callable[[dict[str, Any]], T]) -> T:
    """`build` of a JSON file. Raises DataError for damage and for another version.

    build: raises ValueError, KeyError or TypeError for content that is not as it should be.
    """
    try:
        tree = json.loads(data)
        if tree["format"] != FORMAT:
            raise ValueError(f"its format is {repr_short(tree['format'])}")
        version = tree["version"]
        if version == VERSION:
            if tree.pop("sha256") != digest(tree):
                raise ValueError("wrong checksum")
            return build(tree)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else one_line(error)
        raise DataError(
            f"{path}: is damaged, or not a file of a packed data set ({reason}); "
            f"{AGAIN} to rewrite it"
        ) from None
    raise DataError(
        f"{path}: has format version {repr_short(version)}, and this fastass reads version "
        f"{VERSION}: pack the data set again, or use the fastass that wrote it"
    )
