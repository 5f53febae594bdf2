"""`manifest.json`: the settings of a packed directory and a summary of its shards.

The on-disk format is described in `fastass.pipelines.packed.dataset`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.packed.index import FORMAT, VERSION, BadSample, ShardIndex, decode, digest

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
        """One text "field mine, not theirs" per field that differs."""
        mine, theirs = self.to_json(), other.to_json()
        changed = [f.name for f in fields(self) if mine[f.name] != theirs[f.name]]
        return [
            "other classes" if name == "classes" else f"{name} {mine[name]}, not {theirs[name]}"
            for name in changed
        ]


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

        return decode(data, path, build)
