"""The run directory.

RUN/config.yaml      the configuration
RUN/labelled.txt     names of the labelled target images
RUN/metrics.jsonl    one line every `log_every` steps, and one per evaluation
RUN/summary.json     the result
RUN/contact_sheet.png, RUN/examples, RUN/class_means.json: for looking at it (`fastass report`)
RUN/checkpoints, RUN/last, RUN/best: see `fastass.checkpoint.files`
"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastass.checkpoint.files import list_checkpoints
from fastass.config.schema import Config
from fastass.config.text import from_yaml, leaves, to_yaml, value_at
from fastass.errors import UserError
from fastass.runtime.atomic_write import write_whole, writing

CONFIG, LABELLED, METRICS, SUMMARY = "config.yaml", "labelled.txt", "metrics.jsonl", "summary.json"
SHEET, EXAMPLES, CLASS_MEANS = "contact_sheet.png", "examples", "class_means.json"
LOGGERS, TENSORBOARD = "loggers.json", "tensorboard"
_SHOWN = (SHEET, EXAMPLES, CLASS_MEANS, LOGGERS, TENSORBOARD)
_LINKS = ("checkpoints", "last", "best", "start")
# In the order of removal: as long as the configuration is there, the directory is a run.
_OURS = (LABELLED, METRICS, SUMMARY, *_SHOWN, *_LINKS, CONFIG)
_BEGUN = {LABELLED, *(f".{name}.tmp" for name in (LABELLED, CONFIG))}

# What may differ when a run is resumed: where and how fast it runs, not what it computes.
# The global batch may be split differently; its size may not change.
FREE = {
    "runtime.device",
    "runtime.kernels",
    "runtime.compile",
    "runtime.compile_mode",
    "runtime.tune_allocator",
    "backward",
    "model.checkpoint_activations",
    "model.recompute_sums",
    "eval_every",
    "save_every",
    "log_every",
    "log",
    "save_in_background",
    "data.workers",
    "batch",
    "accumulate",
    "distributed.world",
    "distributed.timeout",
}


class RunDirectory:
    """A run directory, opened for writing. Only one of several ranks `writes`.

    also: is called with every record of metrics.jsonl.
    """

    def __init__(
        self,
        path: Path,
        *,
        writes: bool = True,
        also: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.path, self.writes, self.also = path, writes, also

    def write(self, name: str, text: str) -> None:
        """Write a small file atomically: it is never half there under its own name."""
        if not self.writes:
            return
        write_whole(self.path / name, text)

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        if not self.writes:
            return
        path = self.path / METRICS
        with writing(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.also is not None:
            self.also(record)

    def forget_after(self, step: int, evaluated: Container[int] = ()) -> None:
        """Drop the lines that a run resumed at `step` will write again.

        evaluated: the steps whose evaluation the checkpoint of `step` contains; the evaluation of
        `step` itself may still be missing.
        """
        path = self.path / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                at = record["step"]
                if at < step or (at == step and ("eval" not in record or at in evaluated)):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the torn last line of a killed run
        self.write(METRICS, "".join(kept))


def inspect_run(path: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether `path` holds a run to resume; changes nothing.

    Raises UserError for an existing run without `resume` or `overwrite`, and for a directory that
    is no run.
    """
    if not path.exists() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= _BEGUN):
        return False  # nothing, or what a kill left before the configuration was written
    if not (path / CONFIG).is_file():
        raise UserError(f"{path}: exists and is not a run of fastass; choose another --out")
    if not resume and not overwrite:
        raise UserError(
            f"{path}: a run is there already; use --resume, --overwrite or another --out"
        )
    return resume


def make_run(path: Path, config: Config, labelled: Sequence[str]) -> RunDirectory:
    """Make a new run directory; files of an earlier run in it are removed."""
    _make(path)
    _clear(path)
    run = RunDirectory(path)
    run.write(LABELLED, "".join(f"{name}\n" for name in labelled))
    run.write(CONFIG, to_yaml(config))
    return run


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: can't make the run directory: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise UserError(f"{path}: no permission to write the run there")


def _clear(path: Path) -> None:
    for name in _OURS:
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def has_checkpoint(path: Path) -> bool:
    """Whether the run was saved at least once."""
    return bool(list_checkpoints(path))


def fit_ranks(path: Path, config: Config) -> Config:
    """`config` with the batch size that keeps the run's global batch on another number of ranks.

    If batch or accumulation differ from the run's, they stay as given.
    """
    saved = from_yaml(path / CONFIG)
    if (config.batch, config.accumulate) != (saved.batch, saved.accumulate):
        return config
    batch, rest = divmod(saved.global_batch, config.accumulate * config.distributed.world)
    if rest or not batch:
        raise UserError(
            f"{path}: can't resume on {config.distributed.world} ranks: the run's global batch of "
            f"{saved.global_batch} does not divide; give --batch and --accumulate, or other ranks"
        )
    return replace(config, batch=batch)


def check_same(
    path: Path, config: Config, labelled: Sequence[str], note: Callable[[str], None]
) -> None:
    """UserError if a run can't be resumed with this configuration and these labelled images.

    note: gets a line if the saved configuration has names of an earlier version.
    """
    try:
        chosen = (path / LABELLED).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path / LABELLED}: can't be read: {error.strerror}") from None
    if chosen != list(labelled):
        raise UserError(
            f"{path}: can't resume: the labelled images are not those of {LABELLED}; "
            "the target data has changed"
        )
    saved = from_yaml(path / CONFIG, note)
    if saved.global_batch != config.global_batch:
        d = config.distributed
        raise UserError(
            f"{path}: can't resume with a global batch of {config.global_batch} = --batch "
            f"{config.batch} × --accumulate {config.accumulate} × {d.world} ranks; the run has "
            f"{saved.global_batch}"
        )
    for leaf in leaves():
        if leaf.path in FREE:
            continue
        if leaf.path == "optim.base_batch" and config.optim.scale_lr == "none":
            continue  # nothing depends on it
        old, new = value_at(saved, leaf.path), value_at(config, leaf.path)
        if old != new:
            raise UserError(
                f"{path}: can't resume with {leaf.path} = {new!r}, the run has {old!r}; "
                f"drop {leaf.flag} or choose another --out"
            )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    numbers = {"python": platform.python_version()}
    for name in ("fastass", "torch", "triton", "numpy", "pillow", "nvidia-dali-cuda130"):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers
