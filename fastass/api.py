"""The Python interface: `fastass.train` and `fastass.load`."""

from pathlib import Path
from typing import Any

from fastass.config.configure import configure
from fastass.config.schema import Config
from fastass.inference.load import load
from fastass.tracking.terminal import reporter
from fastass.training.run import saved_config
from fastass.training.run import train as train_run

__all__ = ["load", "train"]


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

    base: a preset's name or a Config. None: the configuration of the run in `out` when resuming,
    else `toycity`. out: the run directory (runs/PRESET). resume: continue the run there, if any.
    overwrite: replace it. stop_at: save and stop at this step. plain: print lines instead of a
    live view. overrides: values of the configuration by the names of their flags (`fastass train
    --help`) with underscores, or by their dotted paths; texts are parsed like the flags' values.

    Raises UserError or DataError for bad input, TrainingFailure when training can't go on,
    Interrupted after saving on a signal or at `stop_at`.
    """
    out = Path(out) if out is not None else None
    config = configure(base, overrides, saved=saved_config(out, resume))
    return train_run(
        config, out, reporter(plain), resume=resume, overwrite=overwrite, stop_at=stop_at
    )
