"""Per-class figures: IoU beside that of the start and of the paper, and the confusion matrix."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastass.report.compare import PaperRow
from fastass.report.run_record import RunRecord


class Bar(NamedTuple):
    """IoU of one class in one run, in percent; None where there is none."""

    run: int
    start: float | None
    last: float | None
    paper: float | None


class ClassRow(NamedTuple):
    name: str
    bars: list[Bar]


class Confusion(NamedTuple):
    """shares: of the truth's pixels, percent [C][C], None for a class without pixels."""

    words: str
    names: list[str]
    shares: list[list[float | None]]
    largest: list[tuple[str, str, float, int]]
    """(truth, prediction, percent of the truth's pixels, pixels), the most pixels first."""


def class_rows(runs: Sequence[RunRecord], rows: Sequence[PaperRow | None]) -> list[ClassRow]:
    """Each class that any run evaluated, with one bar per run."""
    names = list(dict.fromkeys(n for run in runs if run.last for n in run.last.classes))
    return [
        ClassRow(
            name,
            [
                Bar(
                    i,
                    run.start.classes.get(name) if run.start else None,
                    run.last.classes.get(name) if run.last else None,
                    row.classes.get(name) if row else None,
                )
                for i, (run, row) in enumerate(zip(runs, rows, strict=True))
            ],
        )
        for name in names
    ]


def confusions(run: RunRecord) -> list[Confusion]:
    """The confusion matrices that the run kept, before and after adaptation."""
    matrices = []
    for words, scores in (("before adaptation", run.start), ("after adaptation", run.last)):
        if scores is not None and scores.confusion is not None:
            matrices.append(_confusion(words, list(scores.classes), scores.confusion))
    return matrices


def _confusion(words: str, names: list[str], counts: np.ndarray) -> Confusion:
    totals = counts.sum(axis=1)
    shares = [
        [100 * int(n) / int(total) if total else None for n in row]
        for row, total in zip(counts, totals, strict=True)
    ]
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts) if i != j]
    largest = [
        (names[i], names[j], 100 * n / int(totals[i]), n)
        for n, i, j in sorted(wrong, reverse=True)[:8]
    ]
    return Confusion(words, names, shares, largest)
