"""Class tables: the label ids of each data set, the 19 train ids, their names and colours.

The train ids are those of the Cityscapes evaluation; all other pixels are `IGNORE`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastass.pipelines.errors import DataError

if TYPE_CHECKING:
    import numpy as np

IGNORE = 255
MAX_CLASSES = 64  # those of the operators, which this package does not import; a test compares
MAX_ID = 65535  # label value, of a 16-bit file
_UNKNOWN = 254  # marks values that are not in the table


@dataclass(frozen=True)
class ClassTable:
    """The classes of one data set, and how its label files write them.

    names, colors: indexed by train id; colors are RGB, 0–255.
    train_ids: label value of the files → train id or `IGNORE`. Any other value is an error, or
    ignored if `ignore_others`.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    train_ids: Mapping[int, int]
    ignore_others: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, raw: "np.ndarray", where: str) -> "np.ndarray":
        """Raw label values [H,W] (any integer dtype) → train ids uint8 [H,W].

        Raises DataError, naming `where`, for a value outside the table.
        """
        import numpy as np  # here, so that the presets and every help text load without it

        length = max(*self.train_ids, int(raw.max(initial=0)), 255) + 1
        table = np.full(length, IGNORE if self.ignore_others else _UNKNOWN, np.uint8)
        for value, train_id in self.train_ids.items():
            if value >= 0:
                table[value] = train_id
        encoded: np.ndarray = table[raw]
        if not self.ignore_others and (encoded == _UNKNOWN).any():
            # np.unique is slow. And with 255 classes the mark is also a train id.
            unknown = [int(v) for v in np.unique(raw) if int(v) not in self.train_ids]
            if unknown:
                raise DataError(f"{where}: {self._explain(unknown[0])}")
        return encoded

    def _explain(self, value: int) -> str:
        """What is wrong with a label value that is not in the table."""
        if self.name == "folder":
            return f"label value {value} is not listed in classes.yaml: add it to ids or ignore"
        if self.name == "cityscapes" and value == IGNORE:
            return (
                "label value 255, which no label id of Cityscapes has; are these train ids? "
                "The files *_labelIds.png of the owners hold ids"
            )
        return (
            f"label value {value} is outside the {self.name} table "
            f"({min(self.train_ids)}…{max(self.train_ids)}); is it another layout's label, or a "
            "colour image?"
        )

    def subset(self, names: Iterable[str]) -> "ClassTable":
        """A table of fewer classes: they get the train ids 0, 1, …; all others are ignored."""
        keep = tuple(names)
        missing = [name for name in keep if name not in self.names]
        if missing:
            raise DataError(
                f"class {missing[0]!r} is not in the {self.name} table ({', '.join(self.names)})"
            )
        if (twice := repeated(keep)) is not None:
            raise DataError(f"class {twice!r} is listed twice; leave one of them out")
        new_id = {self.names.index(name): i for i, name in enumerate(keep)}
        return replace(
            self,
            names=keep,
            colors=tuple(self.colors[self.names.index(name)] for name in keep),
            train_ids={raw: new_id.get(old, IGNORE) for raw, old in self.train_ids.items()},
        )


def repeated(names: Sequence[str]) -> str | None:
    """The first name that stands in a list twice."""
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


# name, colour (RGB), id in Cityscapes and GTA5, id in SYNTHIA-RAND-CITYSCAPES
_STREET = (
    ("road", (128, 64, 128), 7, 3),
    ("sidewalk", (244, 35, 232), 8, 4),
    ("building", (70, 70, 70), 11, 2),
    ("wall", (102, 102, 156), 12, 21),
    ("fence", (190, 153, 153), 13, 5),
    ("pole", (153, 153, 153), 17, 7),
    ("traffic light", (250, 170, 30), 19, 15),
    ("traffic sign", (220, 220, 0), 20, 9),
    ("vegetation", (107, 142, 35), 21, 6),
    ("terrain", (152, 251, 152), 22, 16),
    ("sky", (70, 130, 180), 23, 1),
    ("person", (220, 20, 60), 24, 10),
    ("rider", (255, 0, 0), 25, 17),
    ("car", (0, 0, 142), 26, 8),
    ("truck", (0, 0, 70), 27, 18),
    ("bus", (0, 60, 100), 28, 19),
    ("train", (0, 80, 100), 31, 20),
    ("motorcycle", (0, 0, 230), 32, 12),
    ("bicycle", (119, 11, 32), 33, 11),
)
NAMES = tuple(row[0] for row in _STREET)
COLORS = tuple(row[1] for row in _STREET)

_CITYSCAPES_IDS = {row[2]: i for i, row in enumerate(_STREET)}
_SYNTHIA_IDS = {row[3]: i for i, row in enumerate(_STREET)}

# Cityscapes does not draw its licence plates (id −1); GTA5 gives them index 34.
CITYSCAPES = ClassTable(
    "cityscapes", NAMES, COLORS, {v: _CITYSCAPES_IDS.get(v, IGNORE) for v in range(34)}
)
GTA5 = ClassTable("gta5", NAMES, COLORS, {v: _CITYSCAPES_IDS.get(v, IGNORE) for v in range(35)})
SYNTHIA = ClassTable("synthia", NAMES, COLORS, {v: _SYNTHIA_IDS.get(v, IGNORE) for v in range(23)})

# The classes that the literature trains SYNTHIA → Cityscapes on, and the 13 it reports (Table 3).
SYNTHIA_16 = tuple(n for n in NAMES if n not in ("terrain", "truck", "train"))
SYNTHIA_13 = tuple(n for n in SYNTHIA_16 if n not in ("wall", "fence", "pole"))
