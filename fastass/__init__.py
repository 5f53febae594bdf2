"""fastass: train a street-scene segmentation network on synthetic images, adapt it to real ones.

import fastass

fastass.wait_passively()
fastass.train("toycity", labelled=10, steps=300, out="runs/x")
labels = fastass.load("runs/x").predict("photo.jpg")

`wait_passively` is optional: where other processes use the same CPU cores, call it before torch is
imported, and a training step of a small network is several times faster. The command line does.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastass.api import evaluate as evaluate
    from fastass.api import export as export
    from fastass.api import load as load
    from fastass.api import open_dataset as open_dataset
    from fastass.api import predict as predict
    from fastass.api import train as train
    from fastass.api import write_report as write_report
    from fastass.config.presets import preset as preset
    from fastass.config.schema import Config as Config
    from fastass.errors import DataError as DataError
    from fastass.errors import ExportFailure as ExportFailure
    from fastass.errors import TrainingFailure as TrainingFailure
    from fastass.errors import UserError as UserError
    from fastass.inference.segmenter import Segmenter as Segmenter
    from fastass.runtime.openmp import wait_passively as wait_passively
    from fastass.runtime.signals import Interrupted as Interrupted

# Imported at their first use, so that `import fastass` is fast: it does not load torch.
# (`write_report`, because `fastass.report` is a folder.)
_PUBLIC = {
    "Config": "config.schema",
    "DataError": "errors",
    "ExportFailure": "errors",
    "Interrupted": "runtime.signals",
    "Segmenter": "inference.segmenter",
    "TrainingFailure": "errors",
    "UserError": "errors",
    "evaluate": "api",
    "export": "api",
    "load": "api",
    "open_dataset": "api",
    "predict": "api",
    "preset": "config.presets",
    "train": "api",
    "wait_passively": "runtime.openmp",
    "write_report": "api",
}

__all__ = [
    "Config",
    "DataError",
    "ExportFailure",
    "Interrupted",
    "Segmenter",
    "TrainingFailure",
    "UserError",
    "evaluate",
    "export",
    "load",
    "open_dataset",
    "predict",
    "preset",
    "train",
    "wait_passively",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fastass' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastass.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
