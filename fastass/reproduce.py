"""The paper's tables as grids of runs: which cells there are, and the table that they make.

A cell is one method with one number of labelled images (and, in Table 2, one λ_sadv), run with
several seeds. Every run has its own directory, so that an interrupted grid goes on where it was.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fastass import paper
from fastass.run import SUMMARY

TOYCITY_COUNTS = (5, 10, 20, 50, 300)


@dataclass(frozen=True)
class Cell:
    """One figure of a table. paper: the figure reported there, None where it has none."""

    method: str
    labelled: int
    sadv: float | None = None
    paper: float | None = None

    def name(self, seed: int) -> str:
        """Directory of one of its runs."""
        λ = "" if self.sadv is None else f"-λ{self.sadv:g}"
        return f"{self.method.replace('+', '_')}-{self.labelled}{λ}-seed{seed}"


@dataclass(frozen=True)
class Grid:
    """A table: its cells, the word for its source domain and the columns in order."""

    table: str
    source: str
    cells: tuple[Cell, ...]

    def column(self, cell: Cell) -> str:
        """Head of a cell's column."""
        return cell.method if cell.sadv is None else f"λ = {cell.sadv:g}"


def methods_grid(table: str, source: str, counts: Sequence[int] | None, toycity: bool) -> Grid:
    """Tables 1 and 3: methods × labelled images. ToyCity adds `source_only`, without labels."""
    rows = paper.TABLE_1 if table == "table1" else paper.TABLE_3
    methods = paper.TABLE_1_METHODS if table == "table1" else paper.TABLE_3_METHODS
    cells = [Cell("source_only", 0)] if toycity else []
    for labelled in counts or (TOYCITY_COUNTS if toycity else tuple(rows)):
        for method, figure in zip(methods, rows.get(labelled, (None,) * 4), strict=False):
            known = figure if not toycity else None
            if toycity or known is not None:
                cells.append(Cell(method, labelled, paper=known))
    return Grid(table, source, tuple(cells))


def runs_of(out: Path, cell: Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Summaries of the cell's runs that are complete."""
    found = []
    for seed in seeds:
        path = out / cell.name(seed) / SUMMARY
        if path.exists():
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def results(grid: Grid, out: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One record a cell: mIoU of every seed, their mean and standard deviation, the paper's."""
    records = []
    for cell in grid.cells:
        runs = runs_of(out, cell, seeds)
        values = [run["reported_miou"] for run in runs]
        records.append(
            {
                "table": grid.table,
                "method": cell.method,
                "labelled": cell.labelled,
                "lambda_sadv": cell.sadv,
                "miou": values,
                "best_miou": [run["best_miou"] for run in runs],
                "mean": mean(values) if values else None,
                "std": stdev(values) if len(values) > 1 else None,
                "paper": cell.paper,
            }
        )
    return records


def markdown(grid: Grid, records: Sequence[dict[str, Any]]) -> str:
    """The table in the paper's shape: a row a number of labelled images, a column a method."""
    columns = list(dict.fromkeys(grid.column(cell) for cell in grid.cells))
    rows = list(dict.fromkeys(cell.labelled for cell in grid.cells))
    at = {
        (cell.labelled, grid.column(cell)): record
        for cell, record in zip(grid.cells, records, strict=True)
    }
    lines = [f"| labelled | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for labelled in rows:
        cells = (_cell(at.get((labelled, column))) for column in columns)
        lines.append(f"| {labelled} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "–"
    if record["mean"] is None:
        text = "not run"
    else:
        spread = f" ± {record['std']:.1f}" if record["std"] is not None else ""
        text = f"{record['mean']:.1f}{spread}"
    return text + (f" (paper {record['paper']})" if record["paper"] is not None else "")
