"""The files that `fastass reproduce` writes: OUT/TABLE and OUT/claims."""

import json
from pathlib import Path
from typing import Any

from fastass.checkpoint.json_file import read_result
from fastass.checkpoint.own_files import CLASS_MEANS
from fastass.pipelines.datasets.classes import CITYSCAPES, SYNTHIA_13
from fastass.reproduce import claims
from fastass.reproduce.centroid_plot import centroid_plot
from fastass.reproduce.chart import line_chart
from fastass.reproduce.comparison import TITLES, kinds_of, provenance, with_statistics
from fastass.reproduce.figure import svg
from fastass.reproduce.grids import CLAIMS, Cell, Grid, start_name
from fastass.reproduce.table import markdown, results
from fastass.reproduce.table_chart import table_chart
from fastass.runtime.atomic_write import write_in_turn


def write(table: Grid, out: Path, seeds: range) -> str:
    """OUT/TABLE/results.json, table.md and, where there is an axis, plot.svg; → the Markdown."""
    records = results(table, out, seeds)
    classes = SYNTHIA_13 if table.source == "synthia" else CITYSCAPES.names
    files = {
        "results.json": json.dumps(records, indent=2),
        "table.md": markdown(table, records, classes),
    }
    if (chart := table_chart(table, records)) is not None:
        files["plot.svg"] = svg(line_chart(chart)).rstrip()
    return _write_files(out / table.table, files, "table.md")


def write_claims(table1: Grid, table2: Grid, out: Path, seeds: range) -> str:
    """OUT/claims/claims.md, claims.json and class_means.svg; → the Markdown."""
    records = [results(table, out, seeds) for table in (table1, table2)]
    distances = claims.class_distances(table1, table2, out, seeds)
    content, sections = [], []
    for kind in kinds_of([*records[0], *records[1]]) or ("",):
        first, second = (with_statistics(r, kind) if kind else r for r in records)
        checked = claims.claims(first, second, distances)
        content += [{**vars(claim), "norm_statistics": kind or None} for claim in checked]
        title = f"With {TITLES[kind]}:\n\n" if kind else ""
        sections.append(title + claims.markdown(checked))
    files = {
        "claims.json": json.dumps(content, indent=2),
        "claims.md": "\n\n".join([*sections, provenance(records[0])]).rstrip(),
    }
    networks = _networks(table2, out)
    if networks:
        files["class_means.svg"] = svg(centroid_plot(networks)).rstrip()
    return _write_files(out / CLAIMS, files, "claims.md")


def _networks(table2: Grid, out: Path) -> list[tuple[str, dict[str, Any]]]:
    """Class means before and after, of the first seed: the start, without adaptation, and with the
    semantic module at Table 2's largest λ_sadv and number of labelled images."""
    labelled = max(cell.labelled for cell in table2.cells)
    fcsa = [c for c in table2.cells if c.method == "ga+fcsa" and c.labelled == labelled]
    strongest = max(fcsa, key=lambda cell: cell.sadv or 0.0)
    runs = {
        "Source only": start_name(0),
        f"Joint, {labelled} labelled images": Cell("joint", labelled).name(0),
        f"GA+FCSA, λ_sadv = {strongest.sadv:g}, {labelled} labelled images": strongest.name(0),
    }
    paths = {title: out / name / CLASS_MEANS for title, name in runs.items()}
    return [
        (title, read_result(path, ("last",))["last"])
        for title, path in paths.items()
        if path.exists()
    ]


def _write_files(folder: Path, files: dict[str, str], shown: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_in_turn(folder / name, f"{content}\n")
    return f"{files[shown]}\n\n{folder}: {', '.join(files)}"
