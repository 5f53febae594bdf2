"""The results of a grid of runs: statistics over seeds, and tables in the paper's shape."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fastass.checkpoint.run_directory import SUMMARY
from fastass.config import paper
from fastass.evaluation.model_selection import LAST_FEW
from fastass.reproduce.chart import Line
from fastass.reproduce.grids import HEADS, Cell, Grid

Record = dict[str, Any]

# Which evaluation is reported: key in results.json → title of its table.
RULES = {
    "last": "The last evaluation",
    "best": "The best evaluation on val (chosen on the images it is reported on)",
    "mean_of_last": f"The mean of the last {LAST_FEW} evaluations",
}
OTHERS = ("Wu et al.", "Tsai et al.", "Saleh et al.", "Hong et al.")
IMPROVEMENTS = {"table1": paper.TABLE_1_IMPROVE, "table3": paper.TABLE_3_IMPROVE}
PER_CLASS: dict[str, Mapping[str, tuple[float, ...]]] = {
    "table4": paper.TABLE_4,
    "table5": paper.TABLE_5,
}


def results(grid: Grid, out: Path, seeds: Sequence[int]) -> list[Record]:
    """One record a cell: mIoU under each rule and per-class IoU (percent) over its complete runs.

    Reads OUT/<cell>-seed<k>/summary.json; a run without one is not complete.
    """
    return [_record(grid, cell, out, seeds) for cell in grid.cells]


def _record(grid: Grid, cell: Cell, out: Path, seeds: Sequence[int]) -> Record:
    paths = {seed: out / cell.name(seed) / SUMMARY for seed in seeds}
    runs = {
        seed: json.loads(path.read_text(encoding="utf-8"))
        for seed, path in paths.items()
        if path.exists()
    }
    return {
        "table": grid.table,
        "part": cell.part,
        "method": cell.method,
        "labelled": cell.labelled,
        "lambda_sadv": cell.sadv,
        "seeds": list(runs),
        **{rule: _statistics([run["selection"][rule] for run in runs.values()]) for rule in RULES},
        "per_class": _mean_per_class([run["per_class_iou"] for run in runs.values()]),
        "training_seconds": [run["training_seconds"] for run in runs.values()],
        "device": sorted({run["device"] for run in runs.values()}),
        "versions": next((run["versions"] for run in runs.values()), None),
        "paper": cell.paper,
    }


def _statistics(values: list[float]) -> Record:
    return {
        "values": values,
        "mean": mean(values) if values else None,
        "std": stdev(values) if len(values) > 1 else None,
    }


def _mean_per_class(runs: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean over runs; None for a class that no run was evaluated on."""
    names = runs[0] if runs else ()
    known = {name: [run[name] for run in runs if run[name] is not None] for name in names}
    return {name: mean(v) if v else None for name, v in known.items()}  # type: ignore[type-var]


def markdown(grid: Grid, records: Sequence[Record], classes: Sequence[str]) -> str:
    """The table under every rule, its parts one after another; Tables 4 and 5: the last alone.

    classes: names of the columns of Tables 4 and 5, in the paper's order.
    """
    if grid.per_class:
        return _class_table(grid, records, classes)
    parts = list(dict.fromkeys(cell.part for cell in grid.cells))
    sections = []
    for rule, title in RULES.items():
        for part in parts:
            chosen = [
                (cell, record)
                for cell, record in zip(grid.cells, records, strict=True)
                if cell.part == part
            ]
            sections.append(
                f"{title}{f', {part}' if part else ''}:\n\n{_table(grid, chosen, rule)}"
            )
    return "\n\n".join(sections)


def _table(grid: Grid, chosen: Sequence[tuple[Cell, Record]], rule: str) -> str:
    """A row a number of labelled images, a column a method or a λ."""
    columns = list(dict.fromkeys(cell.column for cell, _ in chosen))
    if not chosen[0][0].part:
        columns = [head for head in HEADS.values() if head in columns]
    rows = list(dict.fromkeys(cell.labelled for cell, _ in chosen))
    at = {(cell.labelled, cell.column): record for cell, record in chosen}
    by_method = {(cell.labelled, cell.method): record for cell, record in chosen}
    heads = [*columns, *(["Improve"] if grid.improve else [])]
    lines = [f"| # labelled | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for labelled in rows:
        cells = [_cell(at.get((labelled, column)), rule) for column in columns]
        if grid.improve:
            cells.append(_improvement(grid, by_method, labelled, rule))
        lines.append(f"| {labelled} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(record: Record | None, rule: str) -> str:
    if record is None:
        return "–"
    text = _spread(record[rule]["values"]) if record[rule]["values"] else "not run"
    return text + (f" (paper {record['paper']})" if record["paper"] is not None else "")


def _spread(values: list[float], sign: str = "") -> str:
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.1f}{spread}"


def _improvement(
    grid: Grid, by_method: dict[tuple[int, str], Record], labelled: int, rule: str
) -> str:
    """The best of `grid.improve` minus the oracle, seed by seed."""
    oracle = by_method.get((labelled, "oracle"))
    methods = [by_method[labelled, m] for m in grid.improve if (labelled, m) in by_method]
    methods = [record for record in methods if record[rule]["values"]]
    if oracle is None or not oracle[rule]["values"] or not methods:
        return "–"
    best = max(methods, key=lambda record: record[rule]["mean"])
    base = dict(zip(oracle["seeds"], oracle[rule]["values"], strict=True))
    gains = [
        value - base[seed]
        for seed, value in zip(best["seeds"], best[rule]["values"], strict=True)
        if seed in base
    ]
    known = oracle["paper"] is not None and IMPROVEMENTS[grid.table].get(labelled)
    return (_spread(gains, "+") if gains else "–") + (f" (paper +{known})" if known else "")


def _class_table(grid: Grid, records: Sequence[Record], classes: Sequence[str]) -> str:
    """Rows: other papers', then each of our cells with the paper's row under it."""
    figures = PER_CLASS[grid.table]
    lines = [f"| | {' | '.join(classes)} | mIoU |", "|---" * (len(classes) + 2) + "|"]
    known = any(cell.paper is not None for cell in grid.cells)
    for name in OTHERS if known else ():
        if name in figures:
            lines.append(_class_row(f"{name} (paper)", figures[name]))
    for cell, record in zip(grid.cells, records, strict=True):
        row = paper.row_name(cell.method, cell.labelled)
        values = [record["per_class"].get(name) for name in classes]
        lines.append(_class_row(row, [*values, record["last"]["mean"]]))
        if cell.paper is not None:
            lines.append(_class_row(f"{row} (paper)", figures[row]))
    return "\n".join(lines)


def _class_row(name: str, values: Sequence[float | None]) -> str:
    return f"| {name} | {' | '.join('–' if v is None else f'{v:.1f}' for v in values)} |"


def chart_lines(grid: Grid, records: Sequence[Record]) -> tuple[str, str, list[Line]]:
    """(title, label of the x axis, lines) of the last evaluations; no lines for Tables 4 and 5.

    Tables 1 and 3: mIoU against labelled images, a line a method; Table 2: against λ_sadv, a line
    a number of labelled images. The paper's figures are dashed.
    """
    if grid.per_class:
        return "", "", []
    points: dict[str, list[tuple[float, float, float | None]]] = {}
    known: dict[str, list[tuple[float, float, float | None]]] = {}
    for cell, record in zip(grid.cells, records, strict=True):
        name = f"{cell.part}, {cell.labelled}" if cell.part else cell.column
        x = cell.sadv if cell.part else cell.labelled
        if not x:
            continue  # no place on a logarithmic axis: row 0
        last = record["last"]
        if last["mean"] is not None:
            points.setdefault(name, []).append((x, last["mean"], last["std"]))
        if cell.paper is not None:
            known.setdefault(name, []).append((x, cell.paper, None))
    heads = list(HEADS.values())
    names = list(dict.fromkeys([*points, *known]))
    names.sort(key=lambda name: heads.index(name) if name in heads else 0)
    lines = [Line(n, tuple(sorted(points[n])), names.index(n)) for n in names if n in points]
    lines += [
        Line(f"{n} (paper)", tuple(sorted(known[n])), names.index(n), dashed=True)
        for n in names
        if n in known
    ]
    what = "λ_sadv" if grid.cells[0].part else "labelled target images"
    return f"mIoU against {what}", what, lines
