"""Finds labels that are masks of 0 and 255, where 255 is ignored and a class is never seen."""

import numpy as np

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.datasets.decode import decode_label, read_file
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.errors import DataError


def mask_warning(dataset: Dataset, count: int = 16) -> str | None:
    """One line if `count` labels, spread over the user's own data, hold 0 and 255 alone.

    Many tools write masks of two classes so, and 255 is ignored unless `classes.yaml` lists it:
    training would see one class. None for all other data. Damaged labels are left to the loader.
    """
    table = dataset.classes
    if dataset.layout != "folder" or table.train_ids.get(IGNORE, IGNORE) != IGNORE:
        return None
    labels = [sample.label for sample in dataset.samples if sample.label is not None]
    values: set[int] = set()
    for i in np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(int):
        try:
            raw = decode_label(read_file(labels[i]), str(labels[i]))
        except DataError:
            continue
        values |= {int(value) for value in np.unique(raw)}
    seen = {table.train_ids[value] for value in values if value in table.train_ids}
    absent = [name for train_id, name in enumerate(table.names) if train_id not in seen]
    if not absent or IGNORE not in values or not values <= {0, IGNORE}:
        return None
    return (
        f"warning: {dataset.root}: the labels hold only 0 and 255, and 255 is ignored, so no pixel "
        f"is {' or '.join(absent[:5])}; if 255 is a class, list it in ids of classes.yaml"
    )
