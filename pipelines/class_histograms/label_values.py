"""What one label file holds: its size, and its pixels per label value.

The values are those in the file, before the class table gives them train ids, so that a count
stays true when the table changes.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.datasets.decode import read_label_values
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.datasets.zip_files import ZipMember
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.dataset import PackedDataset


class LabelValues(NamedTuple):
    """size: (W,H). pixels: (label value, number of pixels), by value, without zeros."""

    size: tuple[int, int]
    pixels: tuple[tuple[int, int], ...]


def sample_names(dataset: Dataset | PackedDataset) -> Iterator[str]:
    """The names of all samples."""
    return (sample_name(dataset, i) for i in range(len(dataset)))


def sample_name(dataset: Dataset | PackedDataset, i: int) -> str:
    """The name of sample i."""
    return dataset.samples[i].name if isinstance(dataset, Dataset) else dataset.names[i]


def has_label(dataset: Dataset | PackedDataset, i: int) -> bool:
    """Whether sample i has a label."""
    if isinstance(dataset, Dataset):
        return dataset.samples[i].label is not None
    return dataset.locations[i][1].label is not None


def stamp(dataset: Dataset | PackedDataset, i: int) -> tuple[int, ...]:
    """Numbers that change when the label of sample i changes; nothing is read but its entry.

    In a zip archive or a packed shard: size and CRC-32. Of a file: size, time of modification and
    time of the last change of its entry, which also tells of a file that another one replaced with
    the same size and time. Raises DataError if there is no such file.
    """
    if isinstance(dataset, PackedDataset):
        member = dataset.locations[i][1].label
        assert member is not None
        return member.size, member.crc32
    label = dataset.samples[i].label
    assert label is not None
    if isinstance(label, ZipMember):
        return label.size, label.crc32
    try:
        status = label.stat()
    except OSError as error:
        raise DataError(f"{label}: cannot be read: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def stored_histogram(dataset: Dataset | PackedDataset, i: int) -> LabelValues | None:
    """What the index of a packed directory says of sample i, if it does."""
    if isinstance(dataset, Dataset):
        return None
    histogram = dataset.locations[i][1].histogram
    if histogram is None:
        return None
    values = (*range(len(histogram) - 1), IGNORE)
    pairs = ((value, count) for value, count in zip(values, histogram, strict=True) if count)
    return LabelValues(dataset.size, tuple(pairs))


def count_values(dataset: Dataset | PackedDataset, i: int) -> LabelValues:
    """Read the label of sample i. Raises DataError if it is damaged."""
    if isinstance(dataset, Dataset):
        label = read_label_values(dataset, dataset.samples[i])
    else:
        dataset.check(i)
        stored = replace(dataset, lookup=None).label(i)
        assert stored is not None
        label = stored
    if label.dtype == np.uint8:  # Pillow counts bytes three times faster than NumPy
        counts = np.array(Image.fromarray(label).histogram())
    else:
        counts = np.bincount(label.ravel())
    pixels = tuple((int(value), int(counts[value])) for value in counts.nonzero()[0])
    return LabelValues((label.shape[1], label.shape[0]), pixels)


def train_ids(dataset: Dataset | PackedDataset, i: int, values: np.ndarray) -> np.ndarray:
    """Label values [n] of sample i → train ids uint8 [n].

    Raises DataError, naming the label, for a value outside the class table.
    """
    if isinstance(dataset, Dataset):
        return dataset.classes.encode(values, str(dataset.samples[i].label))
    if dataset.lookup is not None:
        found: np.ndarray = np.frombuffer(dataset.lookup, np.uint8)[values]
        return found
    outside = (values >= len(dataset.classes)) & (values != IGNORE)
    if outside.any():
        raise DataError(
            f"{dataset.describe(i)}: label value {values[outside][0]} is outside its "
            f"{len(dataset.classes)} classes"
        )
    return values.astype(np.uint8)
