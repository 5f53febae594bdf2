"""Class means on a plane of two principal components; a line joins source and target."""

from collections.abc import Mapping
from typing import Any, NamedTuple

WIDTH, HEIGHT, EDGE = 420, 340, 26
# Offsets of a label from its point, the nearest first.
_PLACES = [
    place
    for r in (9, 16, 24)
    for place in (
        (r, 4, "start"),
        (-r, 4, "end"),
        (0, -r, "middle"),
        (0, r + 8, "middle"),
        (r, -r + 6, "start"),
        (-r, -r + 6, "end"),
        (r, r + 4, "start"),
        (-r, r + 4, "end"),
    )
]
_LETTER, _LINE = 5.9, 11.0  # size of a letter of the labels, for keeping them apart


class Mean(NamedTuple):
    """One class. source, target, label: places on the sheet; anchor: SVG's text-anchor."""

    name: str
    distance: float
    source: tuple[float, float]
    target: tuple[float, float]
    label: tuple[float, float]
    anchor: str


class Plane(NamedTuple):
    """explained: share of the variance shown. distance: mean over the classes."""

    means: list[Mean]
    explained: float
    distance: float


def plane(record: Mapping[str, Any]) -> Plane:
    """Of one network's record in class_means.json. Raises KeyError, TypeError or ValueError."""
    classes = record["classes"]
    points = {
        name: tuple((float(c[d][0]), float(c[d][1])) for d in ("source", "target"))
        for name, c in classes.items()
    }
    xs = [p[0] for pair in points.values() for p in pair]
    ys = [p[1] for pair in points.values() for p in pair]
    scale = min(
        (WIDTH - 2 * EDGE) / ((max(xs) - min(xs)) or 1.0),
        (HEIGHT - 2 * EDGE) / ((max(ys) - min(ys)) or 1.0),
    )  # the same for both axes, so that distances can be compared by eye

    def place(p: tuple[float, float]) -> tuple[float, float]:
        x = WIDTH / 2 + (p[0] - (max(xs) + min(xs)) / 2) * scale
        y = HEIGHT / 2 - (p[1] - (max(ys) + min(ys)) / 2) * scale
        return round(x, 1), round(y, 1)

    placed = {name: (place(s), place(t)) for name, (s, t) in points.items()}
    taken = [_box(p[0], p[1] + 4, 10, "middle", 10) for pair in placed.values() for p in pair]
    means = []
    for name, (source, target) in placed.items():
        label, anchor = _label(name, target, taken)
        distance = float(classes[name]["distance"])
        means.append(Mean(name, distance, source, target, label, anchor))
    return Plane(means, float(record["explained"]), float(record["mean_distance"]))


Box = tuple[float, float, float, float]


def _box(x: float, y: float, width: float, anchor: str, height: float = _LINE) -> Box:
    left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    return left, y - height + 2, left + width, y + 2


def _label(name: str, at: tuple[float, float], taken: list[Box]) -> tuple[tuple[float, float], str]:
    """The place beside a point that covers the least of what is already drawn."""
    width = _LETTER * len(name)

    def cost(box: Box) -> float:
        outside = (
            max(0, -box[0]) + max(0, box[2] - WIDTH) + max(0, -box[1]) + max(0, box[3] - HEIGHT)
        )
        return 100 * outside + sum(_overlap(box, other) for other in taken)

    places = [(at[0] + dx, at[1] + dy, anchor) for dx, dy, anchor in _PLACES]
    # Of equally free places, min takes the first, which is the nearest.
    x, y, anchor = min(places, key=lambda p: cost(_box(p[0], p[1], width, p[2])))
    taken.append(_box(x, y, width, anchor))
    return (round(x, 1), round(y, 1)), anchor


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
