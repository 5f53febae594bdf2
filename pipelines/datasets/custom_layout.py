"""Layouts of other packages, found by import path or by entry point.

    @CustomLayout
    def layout(root: Path, split: str, labels: str) -> Dataset: ...

`--source-layout my_package.my_module:layout` uses it. A package may also give it a name: an entry
point of the group `fastass.layouts`. The module must be installed or on PYTHONPATH.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastass.pipelines.errors import DataError

GROUP = "fastass.layouts"

D = TypeVar("D")


@dataclass(frozen=True)
class CustomLayout(Generic[D]):
    """A function (root, split, labels) that finds the samples of a data set.

    It returns a `Dataset`. split: `train`, `val` or another name; raise DataError if there is no
    such split. labels: `required` or `optional`. Only objects of this class are called, so that a
    configuration file cannot name any function of any module.
    """

    find: Callable[[Path, str, str], D]

    def __call__(self, root: Path, split: str, labels: str) -> D:
        return self.find(root, split, labels)


def load_layout(name: str, known: tuple[str, ...]) -> CustomLayout[Any]:
    """The layout of an entry point's name or of MODULE:NAME. DataError if there is none.

    known: the layouts of fastass, for the message.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    module, colon, attribute = name.partition(":")
    try:
        if name in points:
            found = points[name].load()
        elif colon and module and attribute:
            found = getattr(importlib.import_module(module), attribute)
        else:
            raise DataError(
                f"layout {name!r} is unknown; choose one of auto, {', '.join((*known, *points))}, "
                "or MODULE:NAME of your own"
            )
    except (ImportError, AttributeError) as error:
        raise DataError(f"layout {name!r}: {error}; is the module installed?") from None
    if not isinstance(found, CustomLayout):
        raise DataError(f"layout {name!r}: expected a CustomLayout, got a {type(found).__name__}")
    return found
