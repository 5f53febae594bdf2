"""Checks that the indices of a palette label are label ids: by the colours of its palette.

GTA5's labels are palette PNGs whose index is the label id and whose palette shows the colours of
Cityscapes. A program that saves such a file again may sort or shorten the palette. The picture
then looks the same, and all ids are others.
"""

import numpy as np
from PIL import Image

from fastass.pipelines.datasets.classes import COLORS, GTA5, IGNORE, NAMES
from fastass.pipelines.errors import DataError

# Ids outside the 19 classes that Cityscapes shows in the colour of a class.
_SAME_COLOR = {18: "pole", 34: "car"}


def check_palette(image: Image.Image, where: str) -> None:
    """Raise DataError, naming `where`, unless the palette's colours fit GTA5's and Cityscapes' ids.

    Only the indices that occur are checked: the colour of a class must be nearest to that class, an
    ignored id must not have the colour of a class. A palette without colours (black, or grey i for
    index i) says nothing, and passes.
    """
    flat = image.getpalette("RGB") or []
    colors = np.array(flat, np.int64).reshape(-1, 3)
    for value in np.flatnonzero(image.histogram()).tolist():
        own = GTA5.train_ids.get(value, IGNORE)
        color = colors[value] if value < len(colors) else np.zeros(3, np.int64)
        if (color == 0).all() or (color == value).all():
            continue
        distance = np.abs(np.array(COLORS) - color).sum(axis=1)
        nearest = int(distance.argmin())
        if own == IGNORE:
            right = distance[nearest] > 0 or NAMES[nearest] == _SAME_COLOR.get(value)
        else:
            right = distance[own] == distance[nearest]
        if not right:
            means = "an ignored label id" if own == IGNORE else f"the label id of {NAMES[own]}"
            raise DataError(
                f"{where}: index {value} is {means}, and its palette shows the colour of "
                f"{NAMES[nearest]}: the indices are no label ids; a program has saved the file "
                "again, use the original one"
            )
