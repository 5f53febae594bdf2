"""`manifest.json`: the settings of a packed directory and a summary of its shards.

The on-disk format is described in `fastass.pipelines.packed.dataset`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from reprlib import repr as repr_short
from typing import Any, NamedTuple

from fastass.pipelines.datasets.classes import IGNORE, MAX_CLASSES, MAX_ID, ClassTable
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.index import (
    FORMAT,
    VERSION,
    BadSample,
    ShardIndex,
    decode,
    digest,
    natural,
    text,
)

IMAGES = ("jpeg", "png")
LABELS = ("raw", "png")
MANIFEST = "manifest.json"
UNFINISHED = "packing.json"  # present from the first byte written until the manifest is durable


@dataclass(frozen=True)
class PackSettings:
    """Everything, besides the samples, that determines the bytes of a packed directory.

    size: (W,H) of all images and labels. label: None if the data set has no labels.
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
        if not self.classes.ignore_others:  # as in directories that were packed before it existed
            del tree["classes"]["ignore_others"]
        normalised: dict[str, Any] = json.loads(json.dumps(tree))
        return normalised

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "PackSettings":
        """Raises ValueError, KeyError or TypeError for what `to_json` cannot have written."""
        width, height = map(natural, tree["size"])
        settings = cls(**{**tree, "classes": _table(tree["classes"]), "size": (width, height)})
        for value, known in ((settings.image, IMAGES), (settings.label, (*LABELS, None))):
            if value not in known:
                raise ValueError(f"unknown encoding {repr_short(value)}")
        if min(width, height, natural(settings.records_per_shard)) < 1:
            raise ValueError("a size of 0")
        text(settings.layout)
        text(settings.split)
        return settings

    def differences(self, other: "PackSettings") -> list[str]:
        """One text "field mine, not theirs" per field that differs."""
        mine, theirs = self.to_json(), other.to_json()
        changed = [f.name for f in fields(self) if mine[f.name] != theirs[f.name]]
        return [
            "other classes" if name == "classes" else f"{name} {mine[name]}, not {theirs[name]}"
            for name in changed
        ]


def _table(tree: dict[str, Any]) -> ClassTable:
    names = tuple(map(text, tree["names"]))
    colors = tuple((natural(r), natural(g), natural(b)) for r, g, b in tree["colors"])
    train_ids = {natural(raw): natural(train_id) for raw, train_id in tree["train_ids"]}
    others = tree.get("ignore_others", False)
    if not 1 <= len(names) <= MAX_CLASSES or len(colors) != len(names):
        raise ValueError(f"{len(names)} classes, {len(colors)} colours")
    wrong = [v for v in train_ids.values() if v >= len(names) and v != IGNORE]
    if wrong or not train_ids or max(train_ids) > MAX_ID:
        raise ValueError("label ids or train ids out of range")
    return ClassTable(text(tree["name"]), names, colors, train_ids, others is True)


class ShardEntry(NamedTuple):
    """The manifest's entry for one shard. size: bytes of the tar. sha256: of the shard's index."""

    records: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`, written last: a directory with it and without `packing.json` is finished.

    shards: shard i is `shard_name(i)`. class_pixels, ignored_pixels, bad: over all shards.
    """

    settings: PackSettings
    samples: int
    labelled: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    bad: tuple[BadSample, ...]
    shards: tuple[ShardEntry, ...]

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Names of the classes of which no label has a pixel; none if nothing is labelled."""
        names = self.settings.classes.names
        pixels = zip(names, self.class_pixels, strict=True)
        return tuple(name for name, count in pixels if not count) if self.labelled else ()

    @classmethod
    def summarise(cls, settings: PackSettings, indices: Sequence[ShardIndex]) -> "Manifest":
        """The manifest that belongs to these shards."""
        records = [record for index in indices for record in index.records]
        pixels = map(sum, zip(*(index.class_pixels for index in indices), strict=True))
        return cls(
            settings=settings,
            samples=len(records),
            labelled=sum(record.label is not None for record in records),
            class_pixels=tuple(pixels),
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
                samples=natural(tree["samples"]),
                labelled=natural(tree["labelled"]),
                class_pixels=tuple(map(natural, tree["class_pixels"])),
                ignored_pixels=natural(tree["ignored_pixels"]),
                bad=tuple(BadSample(*map(text, bad)) for bad in tree["bad"]),
                shards=tuple(
                    ShardEntry(natural(records), natural(size), text(sha256))
                    for records, size, sha256 in tree["shards"]
                ),
            )

        manifest = decode(data, path, build)
        if len(manifest.class_pixels) != len(manifest.settings.classes):
            raise DataError(f"{path}: is damaged: class pixels of another number of classes")
        return manifest
