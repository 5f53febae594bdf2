"""`classes.yaml`: the class table of a user's own data (layout `folder`).

names: [road, person, car]              # the train ids 0, 1, 2, in this order
ids: [7, 24, 26]                        # their values in the label files; default 0, 1, 2, …
colors: [[128, 64, 128], [220, 20, 60], [0, 0, 142]]   # RGB, optional
ignore: [0, 1]                          # further label values, ignored; 255 always is
"""

import colorsys
from pathlib import Path
from typing import Any

import yaml

from fastass.pipelines.datasets.classes import IGNORE, ClassTable
from fastass.pipelines.errors import DataError

CLASS_FILE = "classes.yaml"
_KEYS = ("names", "ids", "colors", "ignore")


def read_class_file(path: Path) -> ClassTable:
    """Reads and checks a class file. Raises DataError with the file, the key and what it needs."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; layout folder needs its class names and ids")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold keys ({', '.join(_KEYS)})")
    if unknown := [key for key in content if key not in _KEYS]:
        raise DataError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")

    names = _list(path, content, "names", None)
    if not names or len(names) > IGNORE or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: names must be 1 to {IGNORE} class names")
    ids = _ids(path, content, "ids", list(range(len(names))))
    ignored = _ids(path, content, "ignore", [])
    for key, values in (("names", names), ("ids", ids + ignored)):
        if twice := sorted({v for v in values if values.count(v) > 1}):
            raise DataError(f"{path}: {key}: {twice[0]!r} occurs twice")
    if len(ids) != len(names):
        raise DataError(f"{path}: {len(ids)} ids for {len(names)} names")
    if IGNORE in ids:
        raise DataError(f"{path}: ids: {IGNORE} always means ignored, a class cannot have it")

    train_ids = {IGNORE: IGNORE, **dict.fromkeys(ignored, IGNORE)}
    train_ids.update({raw: i for i, raw in enumerate(ids)})
    return ClassTable("folder", tuple(names), _colors(path, content, len(names)), train_ids)


def _list(path: Path, content: dict[str, Any], key: str, default: list[Any] | None) -> list[Any]:
    value = content.get(key, default)
    if not isinstance(value, list):
        raise DataError(f"{path}: {key} must be a list")
    return value


def _ids(path: Path, content: dict[str, Any], key: str, default: list[int]) -> list[int]:
    values = _list(path, content, key, default)
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
            raise DataError(f"{path}: {key}: {value!r} is not a label value (0…65535)")
    return values


def _colors(path: Path, content: dict[str, Any], count: int) -> tuple[tuple[int, int, int], ...]:
    if "colors" not in content:  # evenly spaced hues: distinct, and the same for everyone
        hues = (colorsys.hsv_to_rgb(i / count, 0.75, 0.9 - 0.3 * (i % 2)) for i in range(count))
        return tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in hues)
    colors: list[tuple[int, int, int]] = []
    for value in _list(path, content, "colors", None):
        if (
            not isinstance(value, list)
            or len(value) != 3
            or not all(isinstance(v, int) and 0 <= v <= 255 for v in value)
        ):
            raise DataError(f"{path}: colors: {value!r} is not [red, green, blue] of 0…255")
        colors.append((value[0], value[1], value[2]))
    if len(colors) != count:
        raise DataError(f"{path}: {len(colors)} colors for {count} names")
    return tuple(colors)
