"""The chart of a table: mIoU against labelled images or λ_sadv, and what is gained over `joint`."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from fastass.reproduce.chart import Chart, Line, Panel
from fastass.reproduce.comparison import Record, gains
from fastass.reproduce.grids import HEADS, Grid

Point = tuple[float, float, float | None]
Points = dict[str, list[Point]]  # by method


def table_chart(grid: Grid, records: Sequence[Record]) -> Chart | None:
    """The chart of the last evaluations; None for Tables 4 and 5, and where nothing is known.

    Tables 1 and 3 have one line per method over the labelled images. Their lines nearly coincide,
    so a second panel shows each method minus `joint` (the paper's runs: minus the oracle), seed by
    seed. Table 2 has one panel per number of labelled images, over λ_sadv. The paper's figures are
    dashed. Row 0 has no place on a logarithmic axis and is left out.
    """
    if grid.per_class:
        return None
    if grid.cells[0].part:
        panels = _panels_of_lambda(grid, records)
        chart = Chart("mIoU against λ_sadv", "λ_sadv", panels)
    else:
        panels = _panels_of_methods(grid, records)
        chart = Chart("mIoU against labelled target images", "labelled target images", panels)
    return chart if panels else None


def _panels_of_lambda(grid: Grid, records: Sequence[Record]) -> tuple[Panel, ...]:
    panels = []
    parts = list(dict.fromkeys((cell.part, cell.method) for cell in grid.cells))
    for labelled in dict.fromkeys(cell.labelled for cell in grid.cells):
        ours: Points = {method: [] for _, method in parts}
        known: Points = {method: [] for _, method in parts}
        for cell, record in zip(grid.cells, records, strict=True):
            if cell.labelled == labelled and cell.sadv:
                _add(ours[cell.method], cell.sadv, record["last"]["mean"], record["last"]["std"])
                _add(known[cell.method], cell.sadv, cell.paper)
        if lines := _lines(ours, known, {method: part for part, method in parts}):
            panels.append(Panel(f"{labelled} labelled images", "mIoU, %", lines))
    return tuple(panels)


def _panels_of_methods(grid: Grid, records: Sequence[Record]) -> tuple[Panel, ...]:
    ours: Points = {method: [] for method in HEADS}
    known: Points = {method: [] for method in HEADS}
    for cell, record in zip(grid.cells, records, strict=True):
        if cell.labelled:
            _add(ours[cell.method], cell.labelled, record["last"]["mean"], record["last"]["std"])
            _add(known[cell.method], cell.labelled, cell.paper)
    panels = []
    if lines := _lines(ours, known, HEADS):
        panels.append(Panel("", "mIoU, %", lines))
    over = "joint" if any(cell.method == "joint" for cell in grid.cells) else "oracle"
    if lines := _differences(grid, records, over):
        label = f"mIoU minus {HEADS[over]}, points"
        panels.append(Panel("", label, lines, zero=True))
    return tuple(panels)


def _differences(grid: Grid, records: Sequence[Record], over: str) -> tuple[Line, ...]:
    """Each adapted method minus `over`, the paper's figures likewise."""
    adapted = [method for method in HEADS if method not in ("source_only", "oracle", "joint")]
    reference = {cell.labelled: cell.paper for cell in grid.cells if cell.method == over}
    ours: Points = {method: [] for method in HEADS}
    known: Points = {method: [] for method in HEADS}
    for method in adapted:
        for labelled, values in gains(records, method, over).items():
            spread = stdev(values) if len(values) > 1 else None
            _add(ours[method], labelled, mean(values), spread)
    for cell in grid.cells:
        theirs = reference.get(cell.labelled)
        if cell.method in adapted and cell.labelled and cell.paper is not None and theirs:
            _add(known[cell.method], cell.labelled, cell.paper - theirs)
    return _lines(ours, known, HEADS)


def _add(points: list[Point], x: float, y: float | None, deviation: float | None = None) -> None:
    if y is not None:
        points.append((x, y, deviation))


def _lines(ours: Points, known: Points, names: Mapping[str, str]) -> tuple[Line, ...]:
    """Our lines, then the paper's, dashed; a method has one colour and marker in all charts."""
    return tuple(
        Line(names[method] + suffix, tuple(sorted(points)), [*HEADS].index(method), bool(suffix))
        for by_method, suffix in ((ours, ""), (known, " (paper)"))
        for method, points in by_method.items()
        if points
    )
