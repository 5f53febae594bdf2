"""The results of a grid of runs: statistics over seeds, and tables in the paper's shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from tabulate import tabulate

from fastass.checkpoint.json_file import read_result
from fastass.checkpoint.own_files import SUMMARY
from fastass.config import paper
from fastass.evaluation.model_selection import LAST_FEW
from fastass.reproduce.comparison import (
    TITLES,
    Record,
    differences,
    held_out_source,
    kinds_of,
    provenance,
    with_statistics,
)
from fastass.reproduce.grids import HEADS, Cell, Grid

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
        "by_statistics": _by_statistics([run["selection"] for run in runs.values()]),
        "source": _source([out / f"{cell.name(seed)}.source.json" for seed in runs]),
        "per_class": _mean_per_class([run["per_class_iou"] for run in runs.values()]),
        "training_seconds": [run["training_seconds"] for run in runs.values()],
        "device": sorted({run["device"] for run in runs.values()}),
        "versions": _distinct([run["versions"] for run in runs.values()]),
        "paper": cell.paper,
    }


def _statistics(values: list[float]) -> Record:
    return {
        "values": values,
        "mean": mean(values) if values else None,
        "std": stdev(values) if len(values) > 1 else None,
    }


def _by_statistics(selections: list[Record]) -> dict[str, Record]:
    """Kind of running statistics → the figures of every rule, where all runs have both kinds."""
    kinds = [selection.get("by_statistics") or {} for selection in selections]
    return {
        kind: {rule: _statistics([each[kind][rule] for each in kinds]) for rule in RULES}
        for kind in (kinds[0] if all(kinds) and kinds else ())
    }


def _source(files: list[Path]) -> dict[str, Record]:
    """Kind of running statistics → mIoU on held-out source images, where all runs have it."""
    if not files or not all(path.exists() for path in files):
        return {}
    found = [read_result(path, ("miou",)) for path in files]
    kinds = [each.get("by_statistics") or {"mixed": each} for each in found]
    return {
        kind: _statistics([each[kind]["miou"] for each in kinds])
        for kind in kinds[0]
        if all(kind in each for each in kinds)
    }


def _distinct(versions: list[dict[str, str]]) -> list[dict[str, str]]:
    return [each for i, each in enumerate(versions) if each not in versions[:i]]


def _mean_per_class(runs: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean over runs; None for a class that no run was evaluated on."""
    names = runs[0] if runs else ()
    known = {name: [run[name] for run in runs if run[name] is not None] for name in names}
    return {name: mean(v) if v else None for name, v in known.items()}  # type: ignore[type-var]


def markdown(grid: Grid, records: Sequence[Record], classes: Sequence[str]) -> str:
    """The table under every rule, its parts one after another; Tables 4 and 5: the last alone.

    Where batch norm has two kinds of running statistics, every table stands there for both. Then
    come the differences to `joint`, the figures on held-out source images, seeds and versions.
    classes: names of the columns of Tables 4 and 5, in the paper's order.
    """
    if grid.per_class:
        sections = [_class_table(grid, records, classes)]
    else:
        kinds = kinds_of(records)
        sections = [
            section
            for rule in RULES
            for kind in kinds or ("",)
            for section in _sections(grid, records, rule, kind)
        ]
        sections += [] if grid.cells[0].part else [differences(records)]
    return "\n\n".join(s for s in [*sections, held_out_source(records), provenance(records)] if s)


def _sections(grid: Grid, records: Sequence[Record], rule: str, kind: str) -> list[str]:
    """The table under one rule with one kind of statistics ("": there is one), part by part."""
    records = with_statistics(records, kind) if kind else records
    parts = list(dict.fromkeys(cell.part for cell in grid.cells))
    sections = []
    for part in parts:
        chosen = [
            (cell, record)
            for cell, record in zip(grid.cells, records, strict=True)
            if cell.part == part
        ]
        title = ", ".join(filter(None, (RULES[rule], TITLES.get(kind), part)))
        sections.append(f"{title}:\n\n{_table(grid, chosen, rule)}")
    return sections


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
    kinds = kinds_of(records)
    rows = []
    known = any(cell.paper is not None for cell in grid.cells)
    for name in OTHERS if known else ():
        if name in figures:
            rows.append(_class_row(f"{name} (paper)", figures[name]))
    for cell, record in zip(grid.cells, records, strict=True):
        row = paper.row_name(cell.method, cell.labelled)
        values = [record["per_class"].get(name) for name in classes]
        title = f"{row} (GA)" if cell.method == "ga" else row
        both = [with_statistics([record], kind)[0]["last"]["mean"] for kind in kinds]
        rows.append(_class_row(title, [*values, record["last"]["mean"], *both]))
        if cell.paper is not None:
            rows.append(_class_row(f"{title} (paper)", figures[row]))
    heads = ["", *classes, "mIoU", *(f"mIoU ({kind})" for kind in kinds)]
    rows = [row + ["–"] * (len(heads) - len(row)) for row in rows]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _class_row(name: str, values: Sequence[float | None]) -> list[str]:
    return [name, *("–" if value is None else f"{value:.1f}" for value in values)]
