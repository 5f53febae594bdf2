"""Line charts of the report: places series of (x, y) on a sheet of fixed size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 18, 10, 30
MOST_POINTS = 240  # of a series, on a sheet that is 380 units wide

Points = Sequence[tuple[float, float]]


class Series(NamedTuple):
    """run: index of the run, which decides colour, dashes and marker."""

    run: int
    name: str
    points: Points


class Tick(NamedTuple):
    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart ready to draw. lines: the SVG path of each series. reading: values for the script.

    level: a horizontal line with its text, for a value to compare with.
    """

    title: str
    unit: str
    lines: list[tuple[int, str, list[tuple[float, float]]]]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    level: tuple[float, str] | None
    vertical: tuple[float, str] | None
    reading: list[dict[str, Any]]
    summary: str


def chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    level: tuple[float, str] | None = None,
    vertical: tuple[float, str] | None = None,
    digits: int = 3,
) -> Chart | None:
    """A chart from zero to the largest value; None if no series has a finite point."""
    kept = [Series(s.run, s.name, thin(finite(s.points))) for s in series]
    kept = [s for s in kept if s.points]
    if not kept:
        return None
    top = max(y for s in kept for _, y in s.points)
    low = min(0.0, *(y for s in kept for _, y in s.points))
    right = max(x for s in kept for x, _ in s.points)
    y_values = ticks(low, max(top, level[0] if level else 0.0))
    x_values = ticks(0, right, 5)
    y0, y1, x1 = y_values[0], max(y_values[-1], top), max(right, 1)

    def px(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * x / x1, 1)

    def py(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y0) / ((y1 - y0) or 1), 1)

    lines, reading = [], []
    for s in kept:
        places = [(px(x), py(y)) for x, y in s.points]
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        lines.append((s.run, path, places if len(places) <= 24 else places[-1:]))
        values = [
            (int(x), f"{y:.{digits}f}", *place)
            for (x, y), place in zip(s.points, places, strict=True)
        ]
        reading.append({"run": s.run, "name": s.name, "values": values})
    ends = "; ".join(
        f"{s.name} from {s.points[0][1]:.{digits}f} to {s.points[-1][1]:.{digits}f}" for s in kept
    )
    return Chart(
        title,
        unit,
        lines,
        [Tick(px(x), short(x)) for x in x_values if x <= x1],
        [Tick(py(y), short(y)) for y in y_values],
        (py(level[0]), level[1]) if level else None,
        (px(vertical[0]), vertical[1]) if vertical and 0 < vertical[0] < x1 else None,
        reading,
        ends,
    )


def finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def thin(points: Points) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: neighbours are averaged, at the x of the last one."""
    size = math.ceil(len(points) / MOST_POINTS) if points else 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values from `low` or below to `high` or above."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def short(value: float) -> str:
    """A tick's text: 1500 → 1.5k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
