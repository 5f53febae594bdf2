"""The Python interface: `fastass.train`, `fastass.load`; the command line is a layer over it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastass.checkpoint.run_directory import CONFIG
from fastass.config.presets import preset
from fastass.config.schema import Config
from fastass.config.text import from_yaml, neighbours, override, settable
from fastass.errors import UserError
from fastass.inference.load import load
from fastass.tracking.progress import Reporter
from fastass.tracking.terminal import reporter
from fastass.training.run import train as train_run

__all__ = ["configure", "load", "train"]


def train(
    base: str | Config | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    plain: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Train, and return the run's summary: mIoU, IoU of each class, images/s, versions …

        fastass.train("toycity", method="ga+csa", labelled=10, out="runs/x")
        fastass.train("toycity", **{"optim.lr": 0.05}, source_size=(256, 144))

    base: a preset's name or a Config; None is the run in `out` when resuming, else `toycity`.
    out: the run directory (runs/PRESET). resume: continue the run there, if any. overwrite:
    replace it. stop_at: save and stop at this step. plain: lines instead of a live view.
    overrides: values of the configuration by the names of their flags (`fastass train --help`)
    with underscores, or by their dotted paths; texts are parsed like the flags' values.

    Raises UserError or DataError for bad input, TrainingFailure when training can't go on,
    Interrupted after saving on a signal or at `stop_at`.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    config = configure(base, overrides, run=Path(out) if out is not None and resume else None)
    path = Path(out) if out is not None else Path("runs") / (config.preset or "run")
    show: Reporter = reporter(plain)
    return train_run(config, path, show, resume=resume, overwrite=overwrite, stop_at=stop_at)


def configure(
    base: str | Config | None = None,
    overrides: Mapping[str, Any] | None = None,
    run: Path | None = None,
) -> Config:
    """The configuration of a preset, with values replaced.

    base: as of `train`. overrides: name → value; UserError proposes the neighbours of an unknown
    name. run: where `base` is None, the directory of a run whose saved configuration is taken.
    """
    if base is None and run is not None and (run / CONFIG).is_file():
        config = from_yaml(run / CONFIG)
    else:
        config = base if isinstance(base, Config) else preset(base or "toycity")
    names = {name: leaf.path for leaf, every in settable().items() for name in every}
    known = {name.replace(".", "_"): path for name, path in names.items()} | names
    values = {}
    for name, value in (overrides or {}).items():
        if name not in known:
            raise UserError(f"unknown value {name!r}; {neighbours(name, list(known))}")
        values[known[name]] = value
    return override(config, values)
