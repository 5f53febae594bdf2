"""The class means of both domains in a plane, several networks side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastass.report.plane import HEIGHT, WIDTH, Plane, plane
from fastass.reproduce.figure import COLORS, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = 44.0  # points above each panel
SOURCE, TARGET = COLORS[3], COLORS[4]
FONT = 11.0  # `report/plane.py` keeps labels of this size apart


def centroid_plot(networks: Sequence[tuple[str, Mapping[str, Any]]]) -> "Figure":
    """networks: (title, its record in class_means.json). A line joins the two means of a class.

    The places of points and labels are those of the report (`fastass.report.plane`).
    """
    width, height = WIDTH * len(networks), HEIGHT + TITLE

    def paint(figure: "Figure") -> None:
        figure.set_layout_engine("none")
        for number, (title, record) in enumerate(networks):
            box = (number / len(networks), 0.0, 1 / len(networks), HEIGHT / height)
            _paint_panel(figure.add_axes(box), title, plane(record))

    return draw((width, height), paint)


def _paint_panel(axes: "Axes", title: str, means: Plane) -> None:
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))  # places on the report's sheet: y points down
    axes.set_axis_off()
    for mean in means.means:
        (x1, y1), (x2, y2) = mean.source, mean.target
        axes.plot([x1, x2], [y1, y2], color="#b0b0b0", linewidth=1, zorder=1)
    for place, marker, face, color in (
        ("source", "o", "white", SOURCE),
        ("target", "^", TARGET, TARGET),
    ):
        xs, ys = zip(*(getattr(mean, place) for mean in means.means), strict=True)
        axes.scatter(xs, ys, 40, marker=marker, facecolor=face, edgecolor=color, label=place)
    for mean in means.means:
        side = {"start": "left", "middle": "center", "end": "right"}[mean.anchor]
        axes.text(*mean.label, mean.name, fontsize=FONT, ha=side, va="baseline")
    below = (
        f"mean distance {means.distance:.3f}; the plane shows {100 * means.explained:.0f} % of the "
        "variance"
    )
    axes.text(WIDTH / 2, -26, title, fontsize=FONT + 3, ha="center", va="baseline")
    axes.text(WIDTH / 2, -9, below, fontsize=FONT, ha="center", va="baseline")
    axes.legend(loc="lower left", fontsize=FONT, frameon=False)
