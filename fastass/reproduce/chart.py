"""Line charts as SVG: text that a browser and a Markdown page show, without a plotting package."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 168, 40, 56
COLORS = ("#4c4c4c", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito


@dataclass(frozen=True)
class Line:
    """A named line. points: (x, y, deviation or None), x > 0 and rising. dashed: of reference."""

    name: str
    points: tuple[tuple[float, float, float | None], ...]
    color: int = 0
    dashed: bool = False


def line_chart(lines: Sequence[Line], title: str, x_label: str, y_label: str) -> str:
    """The SVG of lines with points over a logarithmic x axis; a bar is ± one deviation.

    The ticks of the x axis are the points' own. Raises ValueError without a point.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("a chart needs at least one point")
    scale = _Scale(points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text((LEFT + WIDTH - RIGHT) / 2, 22, title, 'text-anchor="middle" font-size="15"'),
        *_axes(scale, sorted({x for x, _, _ in points}), x_label, y_label),
    ]
    for number, line in enumerate(lines):
        parts += _draw(line, scale)
        parts += _legend(line, number)
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    """Data → picture."""

    def __init__(self, points: Sequence[tuple[float, float, float | None]]) -> None:
        xs = [math.log(x) for x, _, _ in points]
        self.x0, self.x1 = min(xs), max(xs)
        low = min(y - (e or 0) for _, y, e in points)
        high = max(y + (e or 0) for _, y, e in points)
        self.step = _step(max(high - low, 1e-6))
        self.y0 = math.floor(low / self.step) * self.step
        self.y1 = max(math.ceil(high / self.step) * self.step, self.y0 + self.step)

    def x(self, value: float) -> float:
        part = (math.log(value) - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5
        return LEFT + 16 + part * (WIDTH - LEFT - RIGHT - 32)

    def y(self, value: float) -> float:
        part = (value - self.y0) / (self.y1 - self.y0)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        count = round((self.y1 - self.y0) / self.step)
        return [self.y0 + i * self.step for i in range(count + 1)]


def _step(span: float) -> float:
    """A round distance of ticks, so that about six fit."""
    power = 10 ** math.floor(math.log10(span / 5))
    return next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 6)


def _axes(scale: _Scale, xs: Sequence[float], x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in scale.ticks():
        y = scale.y(value)
        parts.append(_path([(LEFT, y), (right, y)], "#e0e0e0", 1))
        parts.append(_text(LEFT - 8, y + 4, f"{value:g}", 'text-anchor="end"'))
    for value in xs:
        x = scale.x(value)
        parts.append(_path([(x, bottom), (x, bottom + 5)], "#808080", 1))
        parts.append(_text(x, bottom + 20, f"{value:g}", 'text-anchor="middle"'))
    parts.append(_path([(LEFT, bottom), (right, bottom)], "#808080", 1))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 12, x_label, 'text-anchor="middle"'))
    turned = f'text-anchor="middle" transform="rotate(-90 18 {(TOP + bottom) / 2:g})"'
    parts.append(_text(18, (TOP + bottom) / 2, y_label, turned))
    return parts


def _draw(line: Line, scale: _Scale) -> list[str]:
    color = COLORS[line.color % len(COLORS)]
    places = [(scale.x(x), scale.y(y)) for x, y, _ in line.points]
    parts = [_path(places, color, 2, line.dashed)]
    for (x, y), (_, value, deviation) in zip(places, line.points, strict=True):
        if deviation:
            ends = [(x, scale.y(value - deviation)), (x, scale.y(value + deviation))]
            parts.append(_path(ends, color, 1))
        fill = "white" if line.dashed else color
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}" stroke="{color}"/>')
    return parts


def _legend(line: Line, number: int) -> list[str]:
    x, y = WIDTH - RIGHT + 14, TOP + 12 + 22 * number
    color = COLORS[line.color % len(COLORS)]
    return [
        _path([(x, y), (x + 24, y)], color, 2, line.dashed),
        _text(x + 30, y + 4, line.name),
    ]


def _path(
    points: Sequence[tuple[float, float]], color: str, width: float, dashed: bool = False
) -> str:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<polyline points="{where}" fill="none" stroke="{color}" stroke-width="{width:g}"{dash}/>'
    )


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'
