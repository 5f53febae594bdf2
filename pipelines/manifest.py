"""What the JSON files of a packed directory say: settings, shard indices, the manifest.

The on-disk format is described in `fastass.pipelines.shards`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastass.pipelines.classes import ClassTable
from fastass.pipelines.errors import DataError

FORMAT = "fastass-packed"
VERSION = 1
MANIFEST = "manifest.json"
UNFINISHED = "packing.json"  # present from the first byte written until the manifest is durable
AGAIN = "run the same `fastass pack` command again"

T = TypeVar("T")


class Member(NamedTuple):
    """One file inside a shard: where its bytes lie in the tar, and their CRC-32."""

    offset: int
    size: int
    crc32: int


class Record(NamedTuple):
    """One sample inside a shard. `name` is the sample's, `key` its tar members' common stem."""

    key: str
    name: str
    image: Member
    label: Member | None
    meta: Member

    @property
    def members(self) -> tuple[Member, ...]:
        """In the order in which they lie in the tar."""
        return tuple(m for m in (self.image, self.label, self.meta) if m is not None)


class BadSample(NamedTuple):
    """A sample that could not be packed."""

    name: str
    reason: str


@dataclass(frozen=True)
class PackSettings:
    """Everything that decides the bytes of a packed directory, besides the samples.

    size: (W,H) of every image and label. label: None where the data set has no labels.
    encoder: the encoder's parameters and the versions of the libraries that resize and encode.
    """

    layout: str
    split: str
    classes: ClassTable
    size: tuple[int, int]
    image: str
    label: str | None
    encoder: Mapping[str, Any]
    records_per_shard: int

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        tree["classes"]["train_ids"] = sorted(self.classes.train_ids.items())
        normalised: dict[str, Any] = json.loads(json.dumps(tree))
        return normalised

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "PackSettings":
        table = tree["classes"]
        classes = ClassTable(
            str(table["name"]),
            tuple(map(str, table["names"])),
            tuple((int(r), int(g), int(b)) for r, g, b in table["colors"]),
            {int(raw): int(train_id) for raw, train_id in table["train_ids"]},
        )
        width, height = map(int, tree["size"])
        return cls(**{**tree, "classes": classes, "size": (width, height)})

    def differences(self, other: "PackSettings") -> list[str]:
        """One "field: mine, not theirs" for every field that differs."""
        mine, theirs = self.to_json(), other.to_json()
        found = [f.name for f in fields(self) if mine[f.name] != theirs[f.name]]
        return [
            "other classes" if name == "classes" else f"{name} {mine[name]}, not {theirs[name]}"
            for name in found
        ]


@dataclass(frozen=True)
class ShardIndex:
    """`shard-00000.json`: the records of one shard and what their labels hold.

    size: bytes of the tar. settings: SHA-256 of the settings. source: SHA-256 of the names of its
    samples and the sizes of their files.
    class_pixels: pixels of every train id; ignored_pixels: those of `IGNORE`.
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
        """JSON, one record a line, with the SHA-256 of everything else in it."""
        head = {"format": FORMAT, "version": VERSION} | asdict(self)
        head["sha256"] = digest(head)
        del head["records"]
        lines = ",\n".join(json.dumps(record) for record in self.records)
        return f'{json.dumps(head)[:-1]}, "records": [\n{lines}\n]}}\n'.encode()

    @classmethod
    def decode(cls, data: bytes, path: Path, shard: str) -> "ShardIndex":
        """Raises DataError for damage, another version and the index of another shard."""

        def build(tree: dict[str, Any]) -> ShardIndex:
            return cls(
                shard=str(tree["shard"]),
                size=int(tree["size"]),
                settings=str(tree["settings"]),
                source=str(tree["source"]),
                class_pixels=tuple(map(int, tree["class_pixels"])),
                ignored_pixels=int(tree["ignored_pixels"]),
                bad=tuple(BadSample(*bad) for bad in tree["bad"]),
                records=tuple(_record(*row) for row in tree["records"]),
            )

        index = _decode(data, path, build)
        if index.shard != shard:
            raise DataError(
                f"{path}: is the index of {index.shard}, not of {shard}; {AGAIN} to rewrite it"
            )
        for record in index.records:
            if any(m.offset < 0 or m.offset + m.size > index.size for m in record.members):
                raise DataError(f"{path}: record {record.key} lies outside {shard}")
        return index


class ShardEntry(NamedTuple):
    """What the manifest says of one shard. size: bytes of the tar. sha256: of the shard's index."""

    records: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`: written last, so a directory that has it (and no `packing.json`) is whole.

    shards: shard i is `shard_name(i)`. class_pixels, ignored_pixels, bad: over all shards.
    """

    settings: PackSettings
    samples: int
    labelled: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    bad: tuple[BadSample, ...]
    shards: tuple[ShardEntry, ...]

    @classmethod
    def summarise(cls, settings: PackSettings, indices: Sequence[ShardIndex]) -> "Manifest":
        """The manifest that belongs to these shards."""
        records = [record for index in indices for record in index.records]
        pixels = np.array([index.class_pixels for index in indices], np.int64).sum(axis=0)
        return cls(
            settings=settings,
            samples=len(records),
            labelled=sum(record.label is not None for record in records),
            class_pixels=tuple(pixels.tolist()),
            ignored_pixels=sum(index.ignored_pixels for index in indices),
            bad=tuple(bad for index in indices for bad in index.bad),
            shards=tuple(
                ShardEntry(len(i.records), i.size, hashlib.sha256(i.encode()).hexdigest())
                for i in indices
            ),
        )

    def encode(self) -> bytes:
        """JSON, with the SHA-256 of everything else in it."""
        tree = {"format": FORMAT, "version": VERSION} | asdict(self)
        tree["settings"] = self.settings.to_json()
        tree["sha256"] = digest(tree)
        return (json.dumps(tree, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes, path: Path) -> "Manifest":
        """Raises DataError for damage and for another version."""

        def build(tree: dict[str, Any]) -> Manifest:
            return cls(
                settings=PackSettings.from_json(tree["settings"]),
                samples=int(tree["samples"]),
                labelled=int(tree["labelled"]),
                class_pixels=tuple(map(int, tree["class_pixels"])),
                ignored_pixels=int(tree["ignored_pixels"]),
                bad=tuple(BadSample(*bad) for bad in tree["bad"]),
                shards=tuple(ShardEntry(*entry) for entry in tree["shards"]),
            )

        return _decode(data, path, build)


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def index_name(number: int) -> str:
    return f"shard-{number:05d}.json"


def digest(value: object) -> str:
    """SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _record(key: str, name: str, image: list[int], label: Any, meta: list[int]) -> Record:
    return Record(key, name, Member(*image), Member(*label) if label else None, Member(*meta))


def _decode(data: bytes, path: Path, build: Callable[[dict[str, Any]], T]) -> T:
    try:
        tree = json.loads(data)
        if tree["format"] != FORMAT:
            raise ValueError(f"its format is {tree['format']!r}")
        version = tree["version"]
        if version == VERSION:
            if tree.pop("sha256") != digest(tree):
                raise ValueError("its own checksum does not fit")
            return build(tree)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(
            f"{path}: is damaged or no file of a packed data set ({reason}); {AGAIN} to rewrite it"
        ) from None
    raise DataError(
        f"{path}: has format version {version}, and this fastass reads version {VERSION}: "
        "pack the data set again, or use the fastass that wrote it"
    )
