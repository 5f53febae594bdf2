"""Metrics to TensorBoard, Weights & Biases and MLflow, beside the run's metrics.jsonl.

A service is imported only if `--log` names it. A resumed run continues in the same record:
RUN/loggers.json keeps the names that the services gave it. If a service fails later, one line
reports it, and training goes on without it.
"""

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from PIL import Image

from fastass.checkpoint.json_file import read_json
from fastass.checkpoint.own_files import LOGGERS, TENSORBOARD
from fastass.errors import UserError
from fastass.pipelines.errors import one_line
from fastass.runtime.atomic_write import write_whole

SECTIONS = {"terms": "loss", "eval": "val"}  # names in metrics.jsonl → names of groups of curves
MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


class Service(Protocol):
    """One service, opened at the first record."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def show(self, step: int, picture: Path) -> None: ...
    def close(self) -> None: ...


def check_services(names: Sequence[str]) -> None:
    """UserError for a service whose package can't be imported."""
    for name in names:
        try:
            importlib.import_module(MODULES[name])
        except ImportError as error:
            raise UserError(
                f"--log {name}: the package {name} can't be imported ({error}); pip install {name}"
            ) from None


class Loggers:
    """The services that a run logs to. `log` takes the records of metrics.jsonl.

    names: keys of SERVICES. config: the configuration as text, which the services keep with the
    run. report: called with one line if a service fails. resumed_at: the step at which a run
    was resumed; what a service has of later steps will be computed again.
    """

    def __init__(
        self,
        run: Path,
        names: Sequence[str],
        config: Mapping[str, str],
        report: Callable[[str], None],
    ) -> None:
        self.run, self.config, self.report = run, config, report
        self.resumed_at: int | None = None
        self._open: dict[str, Service] = {}
        self._working = list(names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self._open):
            self._try(name, lambda service: service.close())

    def log(self, record: Mapping[str, Any]) -> None:
        """Send the numbers of a record, which has its `step`."""
        step = record["step"]
        values = dict(scalars({k: v for k, v in record.items() if k != "step"}))
        for name in list(self._working):
            self._try(name, lambda service: service.log(step, values), step)

    def show(self, step: int, picture: Path) -> None:
        """Send a picture, the examples of a finished run."""
        for name in list(self._working):
            self._try(name, lambda service: service.show(step, picture), step)

    def _try(self, name: str, do: Callable[[Service], None], step: int = 0) -> None:
        """`do` with a service; an error is reported and ends the logging to it."""
        try:
            if name not in self._open:
                first = step if self.resumed_at is None else self.resumed_at + 1
                self._open[name] = SERVICES[name](self.run, self.config, first)
            do(self._open[name])
        except (
            Exception
        ) as error:  # each service has errors of its own: network, disk, permissions, quotas
            self._working = [other for other in self._working if other != name]
            self._open.pop(name, None)
            reason = one_line(error) or type(error).__name__
            self.report(f"--log {name} failed; the run continues without it: {reason}")


def scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record, nested names joined: `loss/seg_source`, `val/per_class_iou/road`."""
    for key, value in record.items():
        name = f"{prefix}{SECTIONS.get(key, key)}"
        if isinstance(value, Mapping):
            yield from scalars(value, f"{name}/")
        elif isinstance(value, (int, float)):
            yield name, float(value)


class TensorBoard:
    """Event files in RUN/tensorboard; a resumed run replaces events from `step` on."""

    def __init__(self, run: Path, config: Mapping[str, str], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / TENSORBOARD), purge_step=step)
        rows = "".join(f"| {name} | `{value}` |\n" for name, value in config.items())
        self._writer.add_text("configuration", f"| setting | value |\n|---|---|\n{rows}", step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # A run that is killed now resumes after this step, so the file must have it.
        self._writer.flush()

    def show(self, step: int, picture: Path) -> None:
        with Image.open(picture) as image:
            self._writer.add_image(
                "examples", np.asarray(image.convert("RGB")), step, dataformats="HWC"
            )

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of the project `fastass`; WANDB_PROJECT, WANDB_MODE and the like apply."""

    def __init__(self, run: Path, config: Mapping[str, str], step: int) -> None:
        import wandb

        known = _identity(run, "wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fastass"),
            name=run.name,
            dir=str(run),
            id=known,
            resume="allow" if known else None,
            config=dict(config),
        )
        _remember(run, "wandb", self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def show(self, step: int, picture: Path) -> None:
        import wandb

        self._run.log({"examples": wandb.Image(str(picture))}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment `fastass`; MLFLOW_TRACKING_URI and the like apply."""

    def __init__(self, run: Path, config: Mapping[str, str], step: int) -> None:
        import mlflow

        self._mlflow = mlflow
        known = _identity(run, "mlflow")
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "fastass"))
        started = mlflow.start_run(run_id=known, run_name=None if known else run.name)
        if not known:
            mlflow.log_params(dict(config))
        _remember(run, "mlflow", started.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def show(self, step: int, picture: Path) -> None:
        self._mlflow.log_artifact(str(picture))

    def close(self) -> None:
        self._mlflow.end_run()


SERVICES: dict[str, Callable[[Path, Mapping[str, str], int], Service]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def _identity(run: Path, service: str) -> str | None:
    file = run / LOGGERS
    if not file.exists():
        return None
    name = read_json(file).get(service)
    return name if isinstance(name, str) else None


def _remember(run: Path, service: str, identity: str) -> None:
    file = run / LOGGERS
    known = read_json(file) if file.exists() else {}
    write_whole(file, json.dumps({**known, service: identity}) + "\n")
