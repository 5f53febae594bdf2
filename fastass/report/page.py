"""Renders runs as one HTML file that refers to nothing outside of itself."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastass.config.schema import STATISTICS
from fastass.errors import UserError
from fastass.method.terms import TERMS
from fastass.report import compare, curves
from fastass.report.classes import Confusion, class_rows, confusions
from fastass.report.compare import PaperRow
from fastass.report.pictures import Example, contact_sheet, examples, palette
from fastass.report.plane import Plane, plane
from fastass.report.run_record import Logged, RunRecord, read_run
from fastass.runtime.atomic_write import check_replaceable, write_in_turn

MOST_RUNS = 8  # there are eight distinguishable colours


@dataclass(frozen=True)
class View:
    """One run as the page shows it."""

    index: int
    name: str
    record: RunRecord
    paper: PaperRow | None
    facts: list[tuple[str, str]]
    made: list[tuple[str, str]]
    """How the run was made, as far as it says so: date, command, commit."""
    changed: list[tuple[str, str, str]]
    """(setting, the preset's value, the run's), where they differ."""
    confusions: list[Confusion]
    examples: list[Example]
    palette: dict[str, str]
    sheet: str | None
    planes: list[tuple[str, Plane]]

    @property
    def letter(self) -> str:
        return chr(ord("A") + self.index)


def write_report(paths: Sequence[Path], out: Path) -> list[str]:
    """Write the page of the runs; → one line for each thing that was missing or damaged.

    Raises UserError for a directory that is no run, too many runs, a run given twice, a page that
    can't be written, and another file in its place.
    """
    if len(paths) > MOST_RUNS:
        raise UserError(f"{len(paths)} runs are too many for one page; give {MOST_RUNS} or fewer")
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("a run is given twice")
    check_replaceable(out, "fastass report</title>", "a page of fastass report")
    records = [read_run(path) for path in paths]
    views = [_view(i, record, records) for i, record in enumerate(records)]
    html = render(views)
    write_in_turn(out, html)
    return [note for record in records for note in record.notes]


def render(views: Sequence[View]) -> str:
    """The HTML. Everything that comes from a run is escaped."""
    environment = Environment(
        loader=PackageLoader("fastass.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    records = [view.record for view in views]
    here = files("fastass.report")
    return environment.get_template("page.html").render(
        views=views,
        several=len(views) > 1,
        title=" · ".join(view.name for view in views),
        style=Markup((here / "style.css").read_text(encoding="utf-8")),
        script=Markup((here / "script.js").read_text(encoding="utf-8")),
        settings=compare.settings([record.settings for record in records]),
        versions=compare.settings([_versions(record) for record in records]),
        miou=_miou(views),
        losses=_losses(views, of_discriminators=False),
        discriminator_losses=_losses(views, of_discriminators=True),
        learning_rate=_logged(views, "Learning rate", "", lambda line: line.learning_rate, 6),
        statistics={kind: f"{words} statistics" for kind, words in STATISTICS.items()},
        speed=_speed(views),
        classes=class_rows(records, [view.paper for view in views]),
        curves=curves,
    )


def number(value: float | None, digits: int = 1) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _view(index: int, record: RunRecord, records: Sequence[RunRecord]) -> View:
    name = record.path.resolve().name
    if [r.path.resolve().name for r in records].count(name) > 1:
        name = os.path.relpath(record.path)
    shown = examples(record)
    return View(
        index=index,
        name=name,
        record=record,
        paper=compare.paper_row(record.settings),
        facts=_facts(record),
        made=_made(record),
        changed=_changed(record),
        confusions=confusions(record),
        examples=shown,
        palette=palette(record, list(record.last.classes)) if record.last else {},
        sheet=None if shown else contact_sheet(record),
        planes=_planes(record),
    )


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    summary, settings = record.summary or {}, record.settings
    mix = "+mix" if settings.get("mix") else ""
    facts = [
        ("method", f"{settings.get('method')}{mix}, {settings.get('labelled')} labelled images"),
        ("steps", f"{record.step} of {record.total_steps}"),
    ]
    units: dict[str, Callable[[Any], str]] = {
        "images_per_second": lambda v: f"{v:.1f} images/s",
        "training_seconds": lambda v: f"{int(v) // 60} min {int(v) % 60} s",
        "peak_memory_mib": lambda v: f"{v:,.0f} MiB",
        "device": str,
        "amp": lambda v: "fp32" if v == "off" else str(v),
        "kernels": str,
    }
    words = ("throughput", "training time", "peak memory", "device", "precision", "kernels")
    for (key, text), word in zip(units.items(), words, strict=True):
        if isinstance(summary.get(key), (int, float, str)):
            with contextlib.suppress(ValueError, OverflowError):  # damaged
                facts.append((word, text(summary[key])))
    return facts + _selection(summary.get("selection"))


def _made(record: RunRecord) -> list[tuple[str, str]]:
    summary = record.summary or {}
    known = [(key, summary.get(key)) for key in ("finished", "command", "commit")]
    return [(key, text) for key, text in known if isinstance(text, str) and text]


def _selection(rules: Any) -> list[tuple[str, str]]:
    """mIoU by the other rules of model selection; the last evaluation is shown above."""
    try:
        facts = [("best on val", f"{rules['best']:.1f} at step {rules['best_step']}")]
        if (few := rules["evaluations_in_mean"]) > 1:
            mean = f"{rules['mean_of_last']:.1f} ± {rules['std_of_last']:.1f}"
            facts.append((f"mean of the last {few}", mean))
        return facts
    except (KeyError, TypeError, ValueError):
        return []  # a run of an older version


def _changed(record: RunRecord) -> list[tuple[str, str, str]]:
    preset = compare.of_preset(record.settings.get("preset"))
    if preset is None:
        return []
    rows = compare.settings([preset, record.settings])
    return [(row.path, row.texts[0], row.texts[1]) for row in rows if row.differs]


def _versions(record: RunRecord) -> dict[str, Any]:
    versions = (record.summary or {}).get("versions")
    return versions if isinstance(versions, dict) else {}


def _planes(record: RunRecord) -> list[tuple[str, Plane]]:
    planes = []
    for key, words in (("start", "before adaptation"), ("last", "after adaptation")):
        means = (record.class_means or {}).get(key)
        if means is None:
            continue
        try:
            planes.append((words, plane(means)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            record.notes.append(f"{record.path}: class means {words} are damaged and left out")
    return planes


def _miou(views: Sequence[View]) -> curves.Chart | None:
    series = [
        curves.Series(v.index, v.name, [(s, e.reported) for s, e in v.record.evaluations])
        for v in views
    ]
    figures = {(v.paper.miou, v.paper.where) for v in views if v.paper}
    level = figures.pop() if len(figures) == 1 else None
    paper = (level[0], f"paper {level[0]}") if level else None
    title = "mIoU on target val"
    return curves.chart(title, "%", series, digits=1, vertical=_start(views), level=paper)


def _losses(
    views: Sequence[View], *, of_discriminators: bool
) -> list[tuple[Markup, str, curves.Chart]]:
    """Charts of the terms of the segmentation network, or of those of its discriminators."""
    charts = []
    for name, term in TERMS.items():
        if (term.weight in ("gd", "sd")) != of_discriminators:
            continue
        chart = _logged(views, term.words, "", lambda line, name=name: line.terms.get(name))  # type: ignore[misc]
        if chart is not None:
            charts.append((Markup(term.symbol_html), term.words, chart))
    return charts


def _speed(views: Sequence[View]) -> list[curves.Chart]:
    charts = [
        _logged(views, "Throughput", "images/s", lambda line: line.images_per_second, 1),
        _logged(views, "Waiting for data", "% of time", lambda line: 100 * line.data_wait, 1),
    ]
    return [chart for chart in charts if chart is not None]


def _logged(
    views: Sequence[View],
    title: str,
    unit: str,
    value: Callable[[Logged], float | None],
    digits: int = 3,
) -> curves.Chart | None:
    series = []
    for v in views:
        points = [(line.step, y) for line in v.record.logged if (y := value(line)) is not None]
        series.append(curves.Series(v.index, v.name, points))
    return curves.chart(title, unit, series, digits=digits, vertical=_start(views))


def _start(views: Sequence[View]) -> tuple[float, str] | None:
    """Where the supervised start ends, if it is the same for all."""
    steps = {int(v.record.settings.get("start_steps") or 0) for v in views}
    return (steps.pop(), "adaptation starts") if len(steps) == 1 else None
