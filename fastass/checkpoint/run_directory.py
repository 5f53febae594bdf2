"""The run directory.

RUN/fastass.json     the mark: this directory is a run of fastass
RUN/config.yaml      the configuration, its paths absolute
RUN/labelled.txt     names of the labelled target images
RUN/inputs.json      fingerprints of the images' names and of the weights it started from
RUN/metrics.jsonl    one line every `log_every` steps, one an evaluation
RUN/summary.json     the result
RUN/contact_sheet.png, RUN/examples, RUN/class_means.json: what shows it (`fastass report`)
RUN/checkpoints, RUN/last, RUN/best, RUN/start: see `fastass.checkpoint.files`
RUN/.lock            held by the process that trains there (`fastass.checkpoint.run_lock`)
"""

import json
import platform
from collections.abc import Callable, Container, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastass.checkpoint.json_file import DAMAGE
from fastass.checkpoint.own_files import (
    CONFIG,
    INPUTS,
    LABELLED,
    MARK,
    METRICS,
    is_begun,
    is_earlier_run,
    is_empty,
    is_marked,
    mark_text,
    remove_run,
)
from fastass.checkpoint.pointers import list_checkpoints
from fastass.config.schema import Config
from fastass.config.text import to_yaml
from fastass.config.values import output_folder
from fastass.errors import UserError
from fastass.pipelines.errors import printable
from fastass.runtime.atomic_write import write_whole, writing


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
        with writing(path):
            data = path.read_bytes()
        for line in data.splitlines():
            try:
                text = line.decode()
                record = json.loads(text)
                at = record["step"]
                if at < step or (at == step and ("eval" not in record or at in evaluated)):
                    kept.append(text + "\n")
            except (*DAMAGE, KeyError, TypeError):
                continue  # the torn last line of a killed run, or a damaged one
        self.write(METRICS, "".join(kept))


def inspect_run(path: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether `path` holds a run to be resumed; touches nothing.

    Nothing there, or a run that has nothing to lose, is begun again. Raises UserError for an
    existing run without `resume` or `overwrite`, for a directory of others, and for overwriting a
    run without fastass's mark.
    """
    if not path.exists() and not path.is_symlink():
        return False
    output_folder(path)
    if is_begun(path):
        return False
    marked = is_marked(path)
    if not marked and not is_earlier_run(path):
        raise UserError(f"{path}: exists and is not a run of fastass; choose another --out")
    if marked and is_empty(path):
        return False
    if not resume and not overwrite:
        raise UserError(
            f"{path}: a run is there already; use --resume, --overwrite or another --out"
        )
    if overwrite and not marked:
        raise UserError(
            f"{path}: a run of an earlier version, without the mark {MARK}; it can be resumed and "
            f"evaluated, not overwritten; choose another --out, or remove it by hand: rm -r {path}"
        )
    return resume


def make_run(
    path: Path,
    config: Config,
    labelled: Sequence[str],
    inputs: Mapping[str, Any],
) -> RunDirectory:
    """A fresh run directory; an earlier run's files in it are removed.

    inputs: what RUN/inputs.json keeps. The caller holds the lock. Raises UserError if it can't be
    written.
    """
    run = RunDirectory(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if is_marked(path):
            remove_run(path)
        elif not is_begun(path):
            raise UserError(f"{path}: exists and is not a run of fastass; choose another --out")
    run.write(MARK, mark_text())
    run.write(LABELLED, "".join(f"{printable(name)}\n" for name in labelled))
    run.write(INPUTS, json.dumps(inputs, indent=2) + "\n")
    run.write(CONFIG, to_yaml(config))
    return run


def adopt_run(path: Path, inputs: Mapping[str, Any]) -> None:
    """Mark a run of an earlier version that has been checked and goes on."""
    run = RunDirectory(path)
    if not (path / INPUTS).exists():
        run.write(INPUTS, json.dumps(inputs, indent=2) + "\n")
    if not is_marked(path):
        run.write(MARK, mark_text())


def has_checkpoint(path: Path) -> bool:
    """Whether the run was saved at least once."""
    return bool(list_checkpoints(path))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    numbers = {"python": platform.python_version()}
    for name in ("fastass", "torch", "triton", "numpy", "pillow", "nvidia-dali-cuda130"):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers
