"""Figures of matplotlib, as SVG: the same bytes for the same data, with text that stays text.

matplotlib is imported where a figure is drawn, so that the other commands start without it.
"""

import importlib.util
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastass.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One per method, in the order of `grids.HEADS`. Okabe and Ito's colours, which colour-blind readers
# can tell apart; the markers differ as well.
COLORS = (
    *("#e69f00", "#4c4c4c", "#56b4e9", "#999999", "#0072b2", "#d55e00", "#009e73"),
    *("#cc79a7", "#7a3e9d"),
)
MARKERS = ("o", "s", "^", "x", "D", "v", "P", "*", "X")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "fastass",  # else the identifiers inside the file change with every call
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e0e0e0",
    "figure.constrained_layout.use": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
}


def check_matplotlib() -> None:
    """Raise a UserError that says how to install matplotlib, if it is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("charts need the package matplotlib: pip install matplotlib")


def draw(size: tuple[float, float], paint: Callable[["Figure"], None]) -> "Figure":
    """A figure of `size` (width, height) in points of 1/72 inch, painted in the common style.

    It is a figure of its own: matplotlib's global state stays as it is.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), facecolor="white")
        paint(figure)
    return figure


def svg(figure: "Figure") -> str:
    """The figure as SVG."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "fastass"})
    return buffer.getvalue()
