"""Line charts over a logarithmic x axis: panels side by side, with one legend."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastass.reproduce.figure import COLORS, MARKERS, draw

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL, HEIGHT, LEGEND = 330, 320, 150  # points
FONT = 10.0
APART = 0.012  # of the x axis, between the points of two lines: their bars stay apart


@dataclass(frozen=True)
class Line:
    """A named line.

    points: (x, y, deviation or None), with x > 0 and rising. number: which colour and marker.
    dashed: for reference values.
    """

    name: str
    points: tuple[tuple[float, float, float | None], ...]
    number: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. zero: draw the line y = 0, which differences are measured from."""

    title: str
    y_label: str
    lines: tuple[Line, ...]
    zero: bool = False


@dataclass(frozen=True)
class Chart:
    """Panels that share their x axis."""

    title: str
    x_label: str
    panels: tuple[Panel, ...]


def line_chart(chart: Chart) -> "Figure":
    """Draw the chart; a bar is ± one deviation, and the x axis has a tick at each point's x.

    Raises ValueError for a panel without a point.
    """
    if not chart.panels or not all(any(line.points for line in p.lines) for p in chart.panels):
        raise ValueError("a chart needs at least one point in each panel")

    def paint(figure: "Figure") -> None:
        figure.suptitle(chart.title)
        all_axes = figure.subplots(1, len(chart.panels), squeeze=False)[0]
        for axes, panel in zip(all_axes, chart.panels, strict=True):
            _paint_panel(axes, panel, chart.x_label)
        entries: dict[str, Artist] = {}
        for axes in all_axes:
            handles, names = axes.get_legend_handles_labels()
            entries |= dict(zip(names, handles, strict=True))
        figure.legend([*entries.values()], [*entries], loc="outside right center", frameon=False)

    return draw((PANEL * len(chart.panels) + LEGEND, HEIGHT), paint)


def _paint_panel(axes: "Axes", panel: Panel, x_label: str) -> None:
    axes.set(title=panel.title, xlabel=x_label, ylabel=panel.y_label, xscale="log")
    if panel.zero:
        axes.axhline(0, color="#808080", linewidth=1)
    xs = sorted({x for line in panel.lines for x, _, _ in line.points})
    span = xs[-1] / xs[0]
    margin = span**0.06 if span > 1 else 2.0
    axes.set_xlim(xs[0] / margin, xs[-1] * margin)
    numbers = sorted({line.number for line in panel.lines})
    for line in panel.lines:
        color = COLORS[line.number % len(COLORS)]
        shift = span ** (APART * (numbers.index(line.number) - (len(numbers) - 1) / 2))
        axes.errorbar(
            [x * shift for x, _, _ in line.points],
            [y for _, y, _ in line.points],
            [deviation or 0.0 for _, _, deviation in line.points],
            label=line.name,
            color=color,
            marker=MARKERS[line.number % len(MARKERS)],
            markerfacecolor="white" if line.dashed else color,
            linestyle="--" if line.dashed else "-",
            elinewidth=1,
        )
    axes.set_xticks(xs, tick_labels(xs))
    axes.minorticks_off()


def tick_labels(xs: Sequence[float]) -> list[str]:
    """The labels of ticks on a logarithmic axis; "" where one would touch its neighbour.

    xs: rising. The first and the last are always labelled.
    """
    texts = [f"{x:g}" for x in xs]
    if len(xs) < 2:
        return texts
    width = PANEL - 100.0  # of the axis between its first and its last tick

    def extent(i: int) -> tuple[float, float]:
        at = width * math.log(xs[i] / xs[0]) / math.log(xs[-1] / xs[0])
        half = 0.32 * FONT * len(texts[i]) + 2
        return at - half, at + half

    last = len(xs) - 1
    end, labels = extent(0)[1], [texts[0]]
    for i in range(1, last):
        left, right = extent(i)
        fits = left >= end and right <= extent(last)[0]
        labels.append(texts[i] if fits else "")
        end = right if fits else end
    return [*labels, texts[last]]
