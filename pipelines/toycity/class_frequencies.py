"""How often each class occurs."""

from pathlib import Path

import numpy as np

from fastass.pipelines.datasets.classes import CITYSCAPES, GTA5, IGNORE
from fastass.pipelines.datasets.decode import decode_label, read_file
from fastass.pipelines.errors import DataError


def class_shares(directory: str | Path, split: str) -> np.ndarray:
    """Share of the labelled pixels per train id, float64 [19], of a generated ToyCity.

    split: source (GTA5 layout), train or val. Raises DataError if there are no labels.
    """
    root = Path(directory)
    if split == "source":
        table, paths = GTA5, sorted((root / "gta5" / "labels").glob("*.png"))
    else:
        folder = root / "cityscapes" / "gtFine" / split
        table, paths = CITYSCAPES, sorted(folder.glob("*/*_labelIds.png"))
    if not paths:
        raise DataError(f"{root}: no ToyCity labels for split {split!r}; generate them first")
    counts = np.zeros(256, np.int64)
    for path in paths:
        raw = decode_label(read_file(path), str(path))
        counts += np.bincount(table.encode(raw, str(path)).ravel(), minlength=256)
    classes = counts[:IGNORE][: len(table)]
    shares: np.ndarray = classes / max(1, classes.sum())
    return shares
