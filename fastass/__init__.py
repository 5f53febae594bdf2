"""fastass: train a street-scene segmentation network on synthetic images, adapt it to real ones.

import fastass

fastass.wait_passively()
fastass.train("toycity", method="ga+csa", labelled=10, out="runs/x")
labels = fastass.load("runs/x").predict("photo.jpg")

`wait_passively` is optional: where other processes use the same CPU cores, call it before torch is
imported, and a training step of a small network is several times faster. The command line does.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastass.api import load as load
    from fastass.api import train as train
    from fastass.config.presets import preset as preset
    from fastass.config.schema import Config as Config
    from fastass.inference.segmenter import Segmenter as Segmenter
    from fastass.runtime.openmp import wait_passively as wait_passively

# Imported at their first use, so that `import fastass` is fast: it does not load torch.
_PUBLIC = {
    "train": "api",
    "load": "api",
    "Config": "config.schema",
    "preset": "config.presets",
    "Segmenter": "inference.segmenter",
    "wait_passively": "runtime.openmp",
}

__all__ = ["Config", "Segmenter", "load", "preset", "train", "wait_passively"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fastass' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastass.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
