"""`classes.yaml`: the classes and the file names of a user's own data (layout `folder`).

names: [road, person, car]              # the train ids 0, 1, 2, in this order
ids: [7, [24, 25], "26-28"]             # their values in the label files: one, several, a range;
                                        # default 0, 1, 2, …
colors: [[128, 64, 128], [220, 20, 60], [0, 0, 142]]   # RGB, optional
ignore: [0, "1-6"]                      # further label values, ignored; or `others`: all others
image_suffix: _img                      # images are NAME_img.png, .jpg (default: nothing)
label_suffix: _labelIds                 # labels are NAME_labelIds.png (default: nothing)
splits: false                           # sub-folders of images/ are no splits (default: they are)

255 is ignored unless a class has it.
"""

import colorsys
import re
from dataclasses import dataclass
from reprlib import repr as repr_short
from typing import Any

from fastass.pipelines.datasets.classes import IGNORE, MAX_CLASSES, MAX_ID, ClassTable, repeated
from fastass.pipelines.datasets.files import File
from fastass.pipelines.datasets.image_file import SUFFIXES
from fastass.pipelines.datasets.yaml_file import read_yaml
from fastass.pipelines.errors import DataError

CLASS_FILE = "classes.yaml"
_KEYS = ("names", "ids", "colors", "ignore", "image_suffix", "label_suffix", "splits")


@dataclass(frozen=True)
class ClassFile:
    """What a class file says. splits: whether sub-folders of images/ are splits."""

    table: ClassTable
    image_suffix: str = ""
    label_suffix: str = ""
    splits: bool = True


def read_class_file(path: File) -> ClassFile:
    """Read and check a class file. Raises DataError with the file, the key and what it needs."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold keys ({', '.join(_KEYS)})")
    if unknown := [key for key in content if key not in _KEYS]:
        raise DataError(f"{path}: unknown key {repr_short(unknown[0])}; known: {', '.join(_KEYS)}")

    names = _list(path, content, "names", None)
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{path}: names must be 1 to {MAX_CLASSES} class names")
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or name != name.strip() or not name:
            raise DataError(
                f"{path}: names: {repr_short(name)} is no class name; write text of printable "
                "characters, without spaces at its ends (a number in quotes)"
            )
    if (twice := repeated(names)) is not None:
        raise DataError(f"{path}: names: {twice!r} occurs twice")
    rows = _list(path, content, "ids", [*range(len(names))])
    if len(rows) != len(names):
        raise DataError(f"{path}: {len(rows)} ids for {len(names)} names")
    used: set[int] = set()
    ids = [_values(path, "ids", row, used) for row in rows]
    others = content.get("ignore") == "others"
    ignored = [] if others else _values(path, "ignore", _list(path, content, "ignore", []), used)

    train_ids = {IGNORE: IGNORE, **dict.fromkeys(ignored, IGNORE)}
    train_ids.update({raw: i for i, values in enumerate(ids) for raw in values})
    colors = _colors(path, content, len(names))
    table = ClassTable("folder", tuple(names), colors, train_ids, ignore_others=others)
    splits = content.get("splits", True)
    if not isinstance(splits, bool):
        raise DataError(f"{path}: splits must be true or false")
    image, label = (_suffix(path, content, key) for key in ("image_suffix", "label_suffix"))
    return ClassFile(table, image, label, splits)


def _list(path: File, content: dict[str, Any], key: str, default: list[Any] | None) -> list[Any]:
    value = content.get(key, default)
    if not isinstance(value, list):
        raise DataError(f"{path}: {key} must be a list")
    return value


def _values(path: File, key: str, value: object, used: set[int]) -> list[int]:
    """The label values of one number, one range "low-high", or a list of them; adds to `used`."""
    values = []
    for item in value if isinstance(value, list) else [value]:
        ends = _ends(item)
        if ends is None:
            raise DataError(
                f"{path}: {key}: {repr_short(item)} is not a label value (0…{MAX_ID}), and not a "
                'range such as "3-5"'
            )
        for raw in range(ends[0], ends[1] + 1):
            if raw in used:
                raise DataError(f"{path}: {key}: {raw} occurs twice")
            used.add(raw)
            values.append(raw)
    if not values and key == "ids":
        raise DataError(f"{path}: ids: a class without label values")
    return values


def _ends(value: object) -> tuple[int, int] | None:
    """The lowest and the highest value of a number or a range."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]{1,5})\s*-\s*([0-9]{1,5})\s*", value)
        low, high = (int(match[1]), int(match[2])) if match else (1, 0)
    elif isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    else:
        return None
    return (low, high) if 0 <= low <= high <= MAX_ID else None


def _suffix(path: File, content: dict[str, Any], key: str) -> str:
    value = content.get(key, "")
    if not isinstance(value, str) or "/" in value or value.lower().endswith(SUFFIXES):
        raise DataError(f"{path}: {key} must be the end of a file name before its dot, as in _img")
    return value


def _colors(path: File, content: dict[str, Any], count: int) -> tuple[tuple[int, int, int], ...]:
    if "colors" not in content:  # evenly spaced hues: distinct, and the same for everyone
        hues = (colorsys.hsv_to_rgb(i / count, 0.75, 0.9 - 0.3 * (i % 2)) for i in range(count))
        return tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in hues)
    colors: list[tuple[int, int, int]] = []
    for value in _list(path, content, "colors", None):
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(type(v) is int and 0 <= v <= 255 for v in value)
        ):
            raise DataError(
                f"{path}: colors: {repr_short(value)} is not [red, green, blue] of 0…255"
            )
        colors.append((value[0], value[1], value[2]))
    if len(colors) != count:
        raise DataError(f"{path}: {len(colors)} colors for {count} names")
    return tuple(colors)
