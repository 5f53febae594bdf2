"""The class histograms of a data set: from the index of a pack, from the cache, or counted now.

    histograms = class_histograms(dataset, note=print)
    histograms.pixels[i, c]       # pixels of class c in the label of sample i

A label is read once, however many runs need it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastass.pipelines.class_histograms.cache import Entry, HistogramCache
from fastass.pipelines.class_histograms.label_values import (
    LabelValues,
    count_values,
    has_label,
    sample_name,
    sample_names,
    stamp,
    stored_histogram,
    train_ids,
)
from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.dataset import AnyDataset, PackedDataset
from fastass.pipelines.read_each import read_each


@dataclass(frozen=True)
class ClassHistograms:
    """Pixels per class of n samples.

    pixels: int64 [n, classes]. ignored: int64 [n]. sizes: int64 [n,2], (W,H) of the labels. All are
    zero for a sample without label and for a bad one. bad: sample number → what is wrong with its
    label.
    """

    classes: tuple[str, ...]
    pixels: np.ndarray
    ignored: np.ndarray
    sizes: np.ndarray
    bad: dict[int, str]


def class_histograms(
    dataset: AnyDataset,
    indices: Sequence[int] | None = None,
    *,
    note: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ClassHistograms:
    """The histograms of the samples `indices` (default: all), in that order.

    Labels that no index and no cache knows are read by one thread per core, and their counts are
    kept in the user's cache; `note` gets a line about it. progress: called with (labels read,
    labels to read).
    """
    numbers = range(len(dataset)) if indices is None else indices
    values: dict[int, LabelValues] = {}
    unknown = []
    for i in dict.fromkeys(numbers):
        if has_label(dataset, i):
            stored = stored_histogram(dataset, i)
            if stored is None:
                unknown.append(i)
            else:
                values[i] = stored
    bad: dict[int, str] = {}
    if unknown:
        counted, bad = _cached(dataset, unknown, note, progress)
        values |= counted
    return _table(dataset, numbers, values, bad)


def _table(
    dataset: AnyDataset, numbers: Sequence[int], values: dict[int, LabelValues], bad: dict[int, str]
) -> ClassHistograms:
    rows = np.zeros((len(numbers), IGNORE + 1), np.int64)
    sizes = np.zeros((len(numbers), 2), np.int64)
    for row, i in enumerate(numbers):
        if i not in values:
            continue
        found, counts = np.array(values[i].pixels, np.int64).reshape(-1, 2).T
        try:
            np.add.at(rows[row], train_ids(dataset, i, found), counts)
        except DataError as error:
            bad[i] = str(error)
            continue
        sizes[row] = values[i].size
    classes = dataset.classes.names
    return ClassHistograms(classes, rows[:, : len(classes)], rows[:, IGNORE], sizes, bad)


def _cached(
    dataset: AnyDataset,
    numbers: Sequence[int],
    note: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[dict[int, LabelValues], dict[int, str]]:
    """(values, reasons why labels are bad) by sample number; reads the labels the cache lacks."""
    stamps, bad = read_each(numbers, lambda i: stamp(dataset, i))
    cache = HistogramCache(dataset)
    values = _fresh(cache.read(lambda line: None), dataset, stamps)
    if len(values) == len(stamps):
        return values, bad
    with cache.lock(note):
        entries = cache.read(note)  # another process may have counted in the meantime
        values = _fresh(entries, dataset, stamps)
        missing = [i for i in stamps if i not in values]
        counted, unreadable = read_each(missing, lambda i: count_values(dataset, i), progress)
        names = set(sample_names(dataset))
        entries = {name: entry for name, entry in entries.items() if name in names}
        entries |= {sample_name(dataset, i): Entry(stamps[i], v) for i, v in counted.items()}
        failure = cache.write(entries) if counted else None
    if counted:
        why = ", which an earlier fastass packed without class histograms"
        packed = why if isinstance(dataset, PackedDataset) else ""
        place = f"kept in {cache.path}" if failure is None else f"can't be kept: {failure}"
        note(f"{dataset.root}{packed}: counted the classes of {len(counted)} labels ({place})")
    return values | counted, bad | unreadable


def _fresh(
    entries: dict[str, Entry], dataset: AnyDataset, stamps: dict[int, tuple[int, ...]]
) -> dict[int, LabelValues]:
    """The kept values of the labels that have not changed since."""
    found = ((i, entries.get(sample_name(dataset, i))) for i in stamps)
    return {i: e.values for i, e in found if e is not None and e.stamp == stamps[i]}
