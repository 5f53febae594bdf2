"""fastass: a fast training engine for semi-supervised domain adaptation of street scenes.

import fastass

fastass.train("toycity", method="ga+csa", labelled=10, out="runs/x")
labels = fastass.load("runs/x").predict("photo.jpg")
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastass.api import load as load
    from fastass.api import train as train
    from fastass.config.presets import preset as preset
    from fastass.config.schema import Config as Config
    from fastass.inference.segmenter import Segmenter as Segmenter

# Before torch loads OpenMP: idle threads look for work for some ten microseconds, which spares most
# of a small step's hundreds of wake-ups, then sleep. On cores shared with other processes spinning
# for longer made a training step of the tiny network 5 to 35 times slower (docs/decisions.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Imported when first asked for: `import fastass` alone loads neither torch nor Pillow.
_PUBLIC = {
    "train": "api",
    "load": "api",
    "Config": "config.schema",
    "preset": "config.presets",
    "Segmenter": "inference.segmenter",
}

__all__ = ["Config", "Segmenter", "load", "preset", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fastass' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastass.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
