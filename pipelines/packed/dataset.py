"""Packed data sets: WebDataset tar shards, memory-mapped for reading.

A packed directory holds one split of one data set, written by `fastass.pipelines.packed.pack.pack`:

    manifest.json      settings, class table, counts, class frequencies, SHA-256 of every index
    shard-00000.tar    WebDataset shard (ustar). The members of a sample, in this order:
                         KEY.jpg | KEY.png           the image at training size (JPEG 4:4:4 or PNG)
                         KEY.seg.raw | KEY.seg.png   train ids, uint8, row by row or grey PNG
                         KEY.json                    {"name": …, "width": W, "height": H}
                       KEY = NUMBER-NAME without dots or slashes
    shard-00000.json   index: key, name and (offset, size, CRC-32) of the members of every record,
                       and the class histogram of its label
    shard-00000.idx    the same offsets in the format of DALI's `wds2idx`
    packing.json       only until the directory is finished
    packing.lock       while a process packs into the directory (or was killed doing so)

The content does not depend on time, host, user or number of workers: the same files, settings and
library versions give the same bytes. The manifest is written last. The digests of the JSON files
are checked when a directory is opened, those of the members by `check`, when they are read.

    data = open_packed(directory)
    data.check(i); data.image_bytes(i); data.label(i)
"""

import mmap
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastass.pipelines.datasets.classes import IGNORE, ClassTable
from fastass.pipelines.datasets.image_file import DAMAGE, damaged, open_header
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.datasets.png import SIGNATURE, check_complete, check_png, last_row
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.files import check_size, map_shard, read_index, read_manifest
from fastass.pipelines.packed.index import AGAIN, Member, Record, shard_name
from fastass.pipelines.packed.manifest import MANIFEST, UNFINISHED, Manifest


@dataclass(frozen=True, repr=False)
class PackedDataset:
    """Records of a packed directory, all or a part, by number 0 … len−1.

    Picklable: a worker process maps a shard when it first reads from it.
    locations: (shard number, record) of every sample. classes: the table of `label`'s train ids.
    lookup: stored train id → train id of `classes`, if they differ (`with_classes`).
    """

    root: Path
    manifest: Manifest
    locations: tuple[tuple[int, Record], ...]
    classes: ClassTable
    lookup: bytes | None = None
    _maps: dict[int, mmap.mmap] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __repr__(self) -> str:
        return f"<PackedDataset {self.root}: {len(self)} images, {len(self.classes)} classes>"

    def __len__(self) -> int:
        return len(self.locations)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    @property
    def layout(self) -> str:
        """The layout that the data set had before it was packed."""
        return self.manifest.settings.layout

    @property
    def split(self) -> str:
        return self.manifest.settings.split

    @property
    def size(self) -> tuple[int, int]:
        """(W,H) of every image and label."""
        return self.manifest.settings.size

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names that the samples had before the data set was packed."""
        return tuple(record.name for _, record in self.locations)

    @cached_property
    def has_labels(self) -> bool:
        """Whether every record has a label."""
        return all(record.label is not None for _, record in self.locations)

    def with_classes(self, names: Iterable[str]) -> "PackedDataset":
        """The same records with fewer classes; all other pixels are ignored in `label`.

        Raises DataError for a name that the packed table lacks.
        """
        names = tuple(names)
        if names == self.classes.names:
            return self
        classes = self.classes.subset(names)
        stored = self.manifest.settings.classes.names
        lookup = bytearray([IGNORE] * 256)
        for train_id, name in enumerate(names):
            lookup[stored.index(name)] = train_id
        return replace(self, classes=classes, lookup=bytes(lookup))

    def describe(self, i: int) -> str:
        """Shard and record of sample i, for messages."""
        shard, record = self.locations[i]
        return f"{self.root / shard_name(shard)}: record {record.key} ({record.name})"

    def image_bytes(self, i: int) -> memoryview:
        """The encoded image (JPEG or PNG): a view of the mapped shard, not checked."""
        shard, record = self.locations[i]
        return self._view(shard, record.image)

    def label_bytes(self, i: int) -> memoryview | None:
        """The stored label (raw train ids or PNG): a view of the mapped shard, not checked."""
        shard, record = self.locations[i]
        return None if record.label is None else self._view(shard, record.label)

    def image(self, i: int) -> np.ndarray:
        """The decoded image: uint8 [H,W,3] RGB. Raises DataError."""
        return self._decode(self.image_bytes(i), "RGB", "image", i)

    def label(self, i: int) -> np.ndarray | None:
        """Train ids uint8 [H,W] of `classes`, or None. Raw labels are read-only views of the shard.

        Raises DataError for a PNG that does not decode to the manifest's size.
        """
        data = self.label_bytes(i)
        if data is None:
            return None
        width, height = self.size
        if self.manifest.settings.label == "png":
            label = self._decode(data, "L", "label", i)
        elif len(data) == width * height:
            label = np.frombuffer(data, np.uint8).reshape(height, width)
        else:
            raise DataError(
                f"{self.describe(i)}: the label has {len(data)} bytes, not {width}x{height}"
            )
        return label if self.lookup is None else np.frombuffer(self.lookup, np.uint8)[label]

    def check(self, i: int) -> None:
        """Raise DataError, naming shard, record and member, unless every checksum fits."""
        shard, record = self.locations[i]
        for what, member in (("image", record.image), ("label", record.label)):
            if member is not None and zlib.crc32(self._view(shard, member)) != member.crc32:
                raise DataError(
                    f"{self.describe(i)}: wrong checksum of the {what}: the shard is "
                    f"damaged; {AGAIN} to rewrite it"
                )

    def _view(self, shard: int, member: Member) -> memoryview:
        if shard not in self._maps:
            self._maps[shard] = map_shard(
                self.root / shard_name(shard), self.manifest.shards[shard].size
            )
        return memoryview(self._maps[shard])[member.offset : member.offset + member.size]

    def _decode(self, data: memoryview, mode: str, what: str, i: int) -> np.ndarray:
        where = f"{self.describe(i)}: the {what} does not decode"
        try:
            image = open_header(data, where)
            image.load()
            if data[:8] == SIGNATURE:
                check_complete(data, check_png(data), last_row(image))
        except DataError:
            raise
        except DAMAGE as error:
            raise damaged(where, error) from None
        if image.size != self.size or image.mode != mode:
            raise DataError(
                f"{self.describe(i)}: the {what} is {image.size[0]}x{image.size[1]} {image.mode}, "
                f"not {self.size[0]}x{self.size[1]} {mode}"
            )
        return np.asarray(image)


AnyDataset = Dataset | PackedDataset


def is_packed(directory: Path | str) -> bool:
    """Whether the directory is a packed data set, finished or not."""
    return any((Path(directory) / name).is_file() for name in (MANIFEST, UNFINISHED))


def open_packed(directory: Path | str, split: str | None = None) -> PackedDataset:
    """The packed data set in `directory`, or, where that holds none, in `directory/split`.

    Raises DataError if nothing, or another split, is packed there; if it is still being written; if
    the manifest or an index is damaged, of another version, or of another shard; if a shard is
    missing or truncated; and if every sample was left out as damaged.
    """
    root = Path(directory)
    if split is not None and not is_packed(root) and is_packed(root / split):
        root = root / split
    manifest = read_manifest(root)
    if split not in (None, manifest.settings.split):
        raise DataError(
            f"{root}: holds the packed split {manifest.settings.split!r}, not {split!r}; give the "
            f"directory of that split, or pack it, --split {split}"
        )
    locations: list[tuple[int, Record]] = []
    for number in range(len(manifest.shards)):
        index = read_index(root, number, manifest)
        check_size(root / shard_name(number), index.size)
        locations.extend((number, record) for record in index.records)
    if not locations:
        raise DataError(
            f"{root}: holds no images: all {len(manifest.bad)} were damaged and left out; repair "
            "them and pack into another directory"
        )
    return PackedDataset(root, manifest, tuple(locations), manifest.settings.classes)
