"""Reads a run directory for display, whether the run is finished, interrupted or damaged.

Only a directory without a readable configuration is refused. Anything else that is missing or
damaged becomes a one-line note, which the page and the command show.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fastass.checkpoint.files import find_checkpoint
from fastass.checkpoint.own_files import CLASS_MEANS, CONFIG, METRICS, SUMMARY, read_labelled
from fastass.config.schema import STATISTICS, Config
from fastass.config.text import flatten, leaves, parse, read_keys
from fastass.errors import UserError
from fastass.pipelines.errors import one_line

T = TypeVar("T")
_DAMAGE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError,
)  # fmt: skip
_MOST_STEPS, _LARGEST = 10**12, 1e15


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on target val; IoU in percent, None for a class that was not evaluated."""

    miou: float
    reported: float
    reported_classes: int
    classes: dict[str, float | None]
    confusion: np.ndarray | None
    """Pixels int64 [C,C], rows truth; None in runs that did not keep them."""
    by_statistics: dict[str, float]
    """`reported` with each kind of running statistics; empty where there is one kind."""

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Evaluation":
        """Of a JSON record. Raises ValueError, KeyError or TypeError if it is not one."""
        classes = {
            str(k): None if v is None else float(v) for k, v in record["per_class_iou"].items()
        }
        counts = record.get("confusion")
        confusion = None if counts is None else np.asarray(counts, dtype=np.int64)
        if confusion is not None and confusion.shape != (len(classes),) * 2:
            raise ValueError(f"confusion has shape {confusion.shape}")
        miou, reported = float(record["miou"]), float(record["reported_miou"])
        kinds = record.get("by_statistics") or {}
        by_statistics = {
            kind: float(kinds[kind]["reported_miou"]) for kind in STATISTICS if kind in kinds
        }
        known = (v for v in classes.values() if v is not None)
        every = (miou, reported, *known, *by_statistics.values())
        if not all(0 <= value <= 100 for value in every):
            raise ValueError("an IoU that is no percentage")
        return cls(
            miou,
            reported,
            int(record["reported_classes"]),
            classes,
            confusion,
            by_statistics,
        )


@dataclass(frozen=True)
class Logged:
    """A line of metrics.jsonl about training steps. terms: by their names in the code."""

    step: int
    terms: dict[str, float]
    images_per_second: float
    data_wait: float
    learning_rate: float | None


@dataclass
class RunRecord:
    """One run. settings: dotted path → value of config.yaml, a default where it has none."""

    path: Path
    settings: dict[str, Any]
    summary: dict[str, Any] | None = None
    start: Evaluation | None = None
    last: Evaluation | None = None
    logged: list[Logged] = field(default_factory=list)
    evaluations: list[tuple[int, Evaluation]] = field(default_factory=list)
    class_means: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def total_steps(self) -> int:
        return int(self.settings.get("start_steps") or 0) + int(self.settings.get("steps") or 0)

    @property
    def step(self) -> int:
        """The last step that was logged or evaluated."""
        return max([line.step for line in self.logged] + [s for s, _ in self.evaluations] + [0])


def read_run(path: Path) -> RunRecord:
    """Read a run directory. Raises UserError if it is none."""
    notes: list[str] = []
    run = RunRecord(path, _settings(path / CONFIG, notes), notes=notes)
    if run.settings.get("labelled_list"):  # which counts instead of the number
        with contextlib.suppress(UserError):
            run.settings["labelled"] = len(read_labelled(path))
    _read_metrics(run)
    start_steps = int(run.settings.get("start_steps") or 0)
    at_start = [score for step, score in run.evaluations if step == start_steps > 0]
    run.start = at_start[0] if at_start else _start_elsewhere(run)
    run.last = run.evaluations[-1][1] if run.evaluations else None
    summary = _json(run, SUMMARY, "the run is not finished; the page shows it up to its last step")
    if summary is not None:
        _checked(run, SUMMARY, lambda: _use_summary(run, summary))
    if run.settings.get("method") != "oracle":  # which has no source
        missing = "no class means: the run is not finished, or is of an older version"
        run.class_means = _json(run, CLASS_MEANS, missing)
    return run


def _start_elsewhere(run: RunRecord) -> Evaluation | None:
    """The evaluation of the checkpoint that this run started from (`init`)."""
    init = run.settings.get("init")
    if not isinstance(init, str) or Path(init).suffix:  # a weight file
        return None
    try:
        checkpoint = find_checkpoint(init).resolve()
    except UserError:
        return None
    other = RunRecord(checkpoint.parent.parent, {})
    _read_metrics(other)
    at = [score for step, score in other.evaluations if checkpoint.name == f"step-{step:08d}"]
    return at[-1] if at else None


def _settings(path: Path, notes: list[str]) -> dict[str, Any]:
    """The values of config.yaml; one that does not fit its field is left out with a note."""
    if not path.exists():
        inside = [config.parent.name for config in sorted(path.parent.glob(f"*/{CONFIG}"))]
        hint = f"; runs in it: {', '.join(inside[:8])}" if inside else ""
        raise UserError(f"{path.parent}: not a run: it has no {path.name}{hint}")
    values = {**flat(asdict(Config())), **read_keys(path)}
    for leaf in leaves():
        try:
            parse(values[leaf.path], leaf.type, leaf.path)
        except UserError as error:
            notes.append(f"{path}: left out: {error}")
            values[leaf.path] = leaf.default
    return values


flat = flatten


def _read_metrics(run: RunRecord) -> None:
    try:
        lines = (run.path / METRICS).read_bytes().splitlines()
    except OSError as error:
        run.notes.append(f"{run.path / METRICS}: can't be read: {_reason(error)}")
        return
    for number, line in enumerate(lines, 1):
        try:
            _use_line(run, json.loads(line))
        except _DAMAGE:
            if number < len(lines):  # the last one may be torn by a kill, which is no damage
                run.notes.append(f"{run.path / METRICS}: line {number} is damaged and left out")


def _use_line(run: RunRecord, line: Mapping[str, Any]) -> None:
    step = int(line["step"])
    if not 0 <= step < _MOST_STEPS:
        raise ValueError(f"step {step}")
    if "eval" in line:
        run.evaluations.append((step, Evaluation.read(line["eval"])))
    elif "terms" in line:
        terms = {str(k): float(v) for k, v in line["terms"].items()}
        speed, wait = float(line["images_per_second"]), float(line["data_wait"])
        rate = None if line.get("lr") is None else float(line["lr"])
        if not all(abs(value) < _LARGEST for value in (speed, wait, rate or 0, *terms.values())):
            raise ValueError("a value that is not finite")
        run.logged.append(Logged(step, terms, speed, wait, rate))


def _use_summary(run: RunRecord, summary: dict[str, Any]) -> None:
    last = Evaluation.read(summary)
    start = summary.get("start")
    run.start = Evaluation.read(start) if start is not None else run.start
    run.last, run.summary = last, summary


def _json(run: RunRecord, name: str, missing: str) -> dict[str, Any] | None:
    path = run.path / name
    if not path.exists():
        run.notes.append(f"{path}: {missing}")
        return None

    def read() -> dict[str, Any]:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(name)
        return content

    return _checked(run, name, read)


def _checked(run: RunRecord, name: str, use: Callable[[], T]) -> T | None:
    try:
        return use()
    except (OSError, *_DAMAGE) as error:
        run.notes.append(f"{run.path / name}: damaged and left out: {_reason(error)}")
        return None


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return one_line(text)
