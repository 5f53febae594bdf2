"""Keeps counted labels in the user's cache, so that each label file is read once.

    $XDG_CACHE_HOME/fastass/class-histograms/DIGEST.json    (without XDG_CACHE_HOME: ~/.cache)

One file per data set: DIGEST is made of its folder, layout and split. The file has the counts of
every label with the label's `stamp`, and a SHA-256 of everything. Data folders are never written
to. A file is whole or absent, and one process counts while others wait for it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fastass.pipelines.class_histograms.label_values import LabelValues
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.durable import write_durably
from fastass.pipelines.file_lock import locked
from fastass.pipelines.packed.dataset import PackedDataset
from fastass.pipelines.packed.index import digest, natural

FORMAT = "fastass-class-histograms"
VERSION = 1


class Entry(NamedTuple):
    """The counts of one label, and its stamp when it was counted."""

    stamp: tuple[int, ...]
    values: LabelValues


class HistogramCache:
    """The counted labels of one data set, by sample name. path: None if the user has no home."""

    def __init__(self, dataset: Dataset | PackedDataset) -> None:
        self.root = dataset.root
        place = [str(self.root.resolve()), dataset.layout, dataset.split, type(dataset).__name__]
        name = hashlib.sha256(json.dumps(place).encode()).hexdigest()[:32]
        folder = _user_cache()
        self.path = folder / "fastass" / "class-histograms" / f"{name}.json" if folder else None

    def read(self, note: Callable[[str], None]) -> dict[str, Entry]:
        """What is kept; nothing if the file is damaged or unreadable, and `note` gets a line."""
        if self.path is None:
            return {}
        try:
            tree = json.loads(self.path.read_bytes())
            if (tree["format"], tree["version"]) != (FORMAT, VERSION):
                return {}  # of another version of fastass
            if tree.pop("sha256") != digest(tree):
                raise ValueError("wrong checksum")
            return {name: _entry(row) for name, row in tree["labels"].items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            note(f"{self.path}: can't be read ({error.strerror}); the labels are counted again")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            note(f"{self.path}: is damaged; the labels are counted again")
        return {}

    @contextlib.contextmanager
    def lock(self, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Wait until no other process counts these labels. Without a lock where none can be made:
        then nothing can be written either."""
        with contextlib.ExitStack() as stack:
            if self.path is not None:
                with contextlib.suppress(OSError):
                    self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    lock = self.path.with_suffix(".lock")
                    stack.enter_context(
                        locked(lock, "counting classes", wait=True, on_wait=on_wait)
                    )
            yield

    def write(self, entries: Mapping[str, Entry]) -> str | None:
        """Replace the file → None, or why it cannot be written."""
        if self.path is None:
            return "the user has no home directory"
        tree: dict[str, Any] = {"format": FORMAT, "version": VERSION, "root": str(self.root)}
        tree["labels"] = {n: [e.stamp, e.values.size, e.values.pixels] for n, e in entries.items()}
        tree["sha256"] = digest(tree)
        try:
            write_durably(self.path, (json.dumps(tree) + "\n").encode())
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        return None


def _user_cache() -> Path | None:
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():  # the specification says to ignore a relative one
        return given
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def _entry(row: Any) -> Entry:
    stamp, (width, height), pixels = row
    counts = tuple((natural(value), natural(count)) for value, count in pixels)
    if natural(width) * natural(height) != sum(count for _, count in counts):
        raise ValueError("the counts do not add up to the size")
    if not all(type(number) is int for number in stamp):
        raise ValueError("a stamp is no number")
    return Entry(tuple(stamp), LabelValues((width, height), counts))
