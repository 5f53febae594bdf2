"""The Python interface: train, load, evaluate, predict, export, write_report, open_dataset."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastass.config.configure import configure
from fastass.config.schema import Config
from fastass.config.values import local_path
from fastass.evaluation.evaluate import Scores, evaluate_segmenter
from fastass.inference.export import export as write_export
from fastass.inference.load import load
from fastass.inference.segmenter import AnyImage, Segmenter
from fastass.inference.views import Views
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.packed.dataset import PackedDataset
from fastass.report.page import write_report as write_page
from fastass.tracking.terminal import reporter
from fastass.training.open_data import open_any
from fastass.training.run import saved_config
from fastass.training.run import train as train_run

__all__ = ["evaluate", "export", "load", "open_dataset", "predict", "train", "write_report"]

Record = Mapping[str, Any]
"""A line of metrics.jsonl: `step`, and either losses, rates and throughput, or `eval`."""


def train(
    base: str | Config | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    elastic: str | None = None,
    plain: bool = False,
    on_record: Callable[[Record], object] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train, and return the run's summary: mIoU, IoU of each class, images/s, versions …

        fastass.train("toycity", labelled=10, steps=300, out="runs/x")
        fastass.train("toycity", **{"optim.lr": 0.05}, source_size=(256, 144))

    base: a preset's name or a Config. None: the configuration of the run in `out` when resuming,
    else `toycity`. out: the run directory (runs/PRESET). resume: continue the run there, if any.
    overwrite: replace it. stop_at: save and stop at this step. elastic: address of torchft's
    lighthouse; the process is one of several members that may end and come. plain: print lines
    instead of a live view. on_record: called on the process that writes with a copy of each line of
    metrics.jsonl; its return value is ignored, and what it raises ends the training. overrides:
    values of the configuration by the names of their flags (`fastass train --help-all`) with
    underscores, or by their dotted paths; texts are parsed like the flags' values.

    Raises UserError or DataError for bad input, TrainingFailure when training can't go on,
    Interrupted after saving on a signal or at `stop_at`.
    """
    out = local_path(out) if out is not None else None
    config = configure(base, overrides, saved=saved_config(out, resume))
    return train_run(
        config,
        out,
        reporter(plain),
        resume=resume,
        overwrite=overwrite,
        stop_at=stop_at,
        elastic=elastic,
        on_record=None if on_record is None else lambda record: on_record(deepcopy(record)),
    )


def open_dataset(
    root: str | Path,
    *,
    layout: str = "auto",
    split: str = "train",
    labels: Literal["required", "optional"] = "required",
) -> Dataset | PackedDataset:
    """A data set in a layout that fastass knows, or packed; `len` is its number of images.

    layout: auto, gta5, synthia, cityscapes, folder, or MODULE:NAME of your own. labels: `optional`
    accepts images without a label. Raises DataError for what does not fit.
    """
    return open_any(str(root), layout, split, labels)


def evaluate(
    network: Segmenter | str | Path,
    data: Dataset | PackedDataset | str | Path,
    *,
    layout: str = "auto",
    split: str | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    size: tuple[int, int] | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Scores:
    """mIoU and IoU of each class of a network on labelled data, in percent.

    network: of `load`, or a path for it. data: of `open_dataset`, or a path; then `layout` and
    `split` choose (val, or everything of data without splits). scales, flip: average predictions
    over scales and the mirror image. size: (W,H) at which the network reads images (default: that
    of training). progress: called with each number of images just evaluated.
    Where the network has two kinds of running statistics, `by_statistics` has the mIoU with each.
    Raises UserError if the classes of data and network differ, DataError for bad data.
    """
    segmenter = network if isinstance(network, Segmenter) else load(network)
    views = Views(tuple(scales), flip)
    if isinstance(data, str | Path):
        data = open_any(str(data), layout, split or "val", whole=split is None)
    return evaluate_segmenter(segmenter, data, views, size, progress)


def predict(
    network: Segmenter | str | Path,
    image: AnyImage | Sequence[AnyImage],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> np.ndarray | list[np.ndarray]:
    """Train ids uint8 [H,W] of an image (a path, a PIL image or RGB uint8 [H,W,3]), or of several.

    For many calls load the network once: `network = fastass.load(path)`, `network.predict(image)`,
    which also has sizes and tiles. Raises as `load` and `Segmenter.predict` do.
    """
    segmenter = network if isinstance(network, Segmenter) else load(network)
    return segmenter.predict(image, scales=scales, flip=flip)


def export(
    network: Segmenter | str | Path,
    out: str | Path,
    *,
    format: Literal["onnx", "torch-export", "safetensors"] = "onnx",
    overwrite: bool = False,
) -> str:
    """Write a network for other programs, read it back and compare; → a line that says how.

    network: a path, or a Segmenter on the CPU. out: a file, or for `safetensors` a folder. Raises
    UserError if `out` exists or a package is missing, ExportFailure if the exported network
    computes something else.
    """
    segmenter = network if isinstance(network, Segmenter) else load(network, device="cpu")
    return write_export(segmenter, local_path(out), format, overwrite=overwrite)


def write_report(
    runs: str | Path | Sequence[str | Path], out: str | Path = "report.html"
) -> list[str]:
    """Write one HTML page about one or several runs; → notes about what was missing.

    Raises UserError for a directory that is no run.
    """
    paths = [runs] if isinstance(runs, str | Path) else runs
    return write_page([local_path(path) for path in paths], local_path(out))
