"""Reads a run directory for display, whether the run is finished, interrupted or damaged.

Only a directory without a readable configuration is refused. Anything else that is missing or
damaged becomes a one-line note, which the page and the command show.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from fastass.checkpoint.files import find_checkpoint
from fastass.checkpoint.run_directory import CLASS_MEANS, CONFIG, METRICS, SUMMARY
from fastass.config.schema import Config
from fastass.errors import UserError

T = TypeVar("T")
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on target val; IoU in percent, None for a class that was not evaluated."""

    miou: float
    reported: float
    reported_classes: int
    classes: dict[str, float | None]
    confusion: np.ndarray | None
    """Pixels int64 [C,C], rows truth; None in runs that did not keep them."""

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
        return cls(
            float(record["miou"]),
            float(record["reported_miou"]),
            int(record["reported_classes"]),
            classes,
            confusion,
        )


@dataclass(frozen=True)
class Logged:
    """A line of metrics.jsonl about training steps. terms: by their names in the code."""

    step: int
    terms: dict[str, float]
    images_per_second: float
    data_wait: float


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
    run = RunRecord(path, _settings(path / CONFIG))
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
    if not isinstance(init, str) or not Path(init).is_dir():
        return None
    try:
        checkpoint = find_checkpoint(init).resolve()
    except UserError:
        return None
    other = RunRecord(checkpoint.parent.parent, {})
    _read_metrics(other)
    at = [score for step, score in other.evaluations if checkpoint.name == f"step-{step:08d}"]
    return at[-1] if at else None


def _settings(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        inside = [config.parent.name for config in sorted(path.parent.glob(f"*/{CONFIG}"))]
        hint = f"; runs in it: {', '.join(inside[:8])}" if inside else ""
        raise UserError(f"{path.parent}: not a run: it has no {path.name}{hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected keys and values, got {type(tree).__name__}")
    return {**flat(asdict(Config())), **flat(tree)}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path → value of a tree of mappings."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def _read_metrics(run: RunRecord) -> None:
    try:
        lines = (run.path / METRICS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
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
    if "eval" in line:
        run.evaluations.append((step, Evaluation.read(line["eval"])))
    elif "terms" in line:
        terms = {str(k): float(v) for k, v in line["terms"].items()}
        rate, wait = float(line["images_per_second"]), float(line["data_wait"])
        run.logged.append(Logged(step, terms, rate, wait))


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
    return " ".join(str(text).split())
