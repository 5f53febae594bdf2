"""The results of a grid of runs: statistics over seeds, and tables in the paper's shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from fastass.checkpoint.json_file import read_result
from fastass.checkpoint.own_files import SUMMARY
from fastass.config import paper
from fastass.evaluation.model_selection import LAST_FEW
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


_USED = ("selection", "per_class_iou", "training_seconds", "device", "versions")


def results(grid: Grid, out: Path, seeds: Sequence[int]) -> list[Record]:
    """One record per cell: mIoU under each rule and per-class IoU (percent) of its complete runs.

    Reads OUT/<cell>-seed<k>/summary.json; a run without one is not complete.
    """
    return [_record(grid, cell, out, seeds) for cell in grid.cells]


def _record(grid: Grid, cell: Cell, out: Path, seeds: Sequence[int]) -> Record:
    paths = {seed: out / cell.name(seed) / SUMMARY for seed in seeds}
    runs = {seed: read_result(path, _USED) for seed, path in paths.items() if path.exists()}
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
    """One row per number of labelled images, one column per method or λ."""
    columns = list(dict.fromkeys(cell.column for cell, _ in chosen))
    if not chosen[0][0].part:
        columns = [head for head in HEADS.values() if head in columns]
    rows = list(dict.fromkeys(cell.labelled for cell, _ in chosen))
    at = {(cell.labelled, cell.column): record for cell, record in chosen}
    by_method = {(cell.labelled, cell.method): record for cell, record in chosen}
    heads = ["# labelled", *columns, *(["Improve"] if grid.improve else [])]
    lines = []
    for labelled in rows:
        cells = [_cell(at.get((labelled, column)), rule) for column in columns]
        if grid.improve:
            cells.append(_improvement(grid, by_method, labelled, rule))
        lines.append([str(labelled), *cells])
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


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
    reference = dict(zip(oracle["seeds"], oracle[rule]["values"], strict=True))
    gains = [
        value - reference[seed]
        for seed, value in zip(best["seeds"], best[rule]["values"], strict=True)
        if seed in reference
    ]
    known = oracle["paper"] is not None and IMPROVEMENTS[grid.table].get(labelled)
    return (_spread(gains, "+") if gains else "–") + (f" (paper +{known})" if known else "")


def _class_table(grid: Grid, records: Sequence[Record], classes: Sequence[str]) -> str:
    """Rows: other papers', then each of our cells with the paper's row under it."""
    figures = PER_CLASS[grid.table]
    rows = []
    known = any(cell.paper is not None for cell in grid.cells)
    for name in OTHERS if known else ():
        if name in figures:
            rows.append(_class_row(f"{name} (paper)", figures[name]))
    for cell, record in zip(grid.cells, records, strict=True):
        row = paper.row_name(cell.method, cell.labelled)
        values = [record["per_class"].get(name) for name in classes]
        rows.append(_class_row(row, [*values, record["last"]["mean"]]))
        if cell.paper is not None:
            rows.append(_class_row(f"{row} (paper)", figures[row]))
    return tabulate(rows, ["", *classes, "mIoU"], tablefmt="github", disable_numparse=True)


def _class_row(name: str, values: Sequence[float | None]) -> list[str]:
    return [name, *("–" if value is None else f"{value:.1f}" for value in values)]


def gains(records: Sequence[Record], method: str, over: str) -> dict[int, list[float]]:
    """Labelled images → mIoU of `method` minus that of `over`, seed by seed; last evaluations."""
    by_cell = {(r["method"], r["labelled"]): r for r in records}
    differences = {}
    for labelled in dict.fromkeys(r["labelled"] for r in records):
        ours, theirs = by_cell.get((method, labelled)), by_cell.get((over, labelled))
        if ours is None or theirs is None:
            continue
        reference = dict(zip(theirs["seeds"], theirs["last"]["values"], strict=True))
        pairs = zip(ours["seeds"], ours["last"]["values"], strict=True)
        values = [value - reference[seed] for seed, value in pairs if seed in reference]
        if values:
            differences[labelled] = values
    return differences
