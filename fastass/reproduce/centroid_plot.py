"""The class means of both domains in a plane, several networks side by side, as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fastass.report.plane import HEIGHT, WIDTH, plane

TITLE = 44
SOURCE, TARGET = "#0072b2", "#d55e00"


def mean_map(networks: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """networks: (title, its record in class_means.json). A line joins the two means of a class."""
    width = WIDTH * len(networks)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + TITLE}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{HEIGHT + TITLE}" fill="white"/>',
    ]
    for number, (title, record) in enumerate(networks):
        parts.append(f'<g transform="translate({number * WIDTH} {TITLE})">')
        parts += _panel(title, record)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, record: Mapping[str, Any]) -> list[str]:
    drawn = plane(record)
    below = (
        f"mean distance {drawn.distance:.3f}; the plane shows {100 * drawn.explained:.0f} % "
        f'of the variance; <tspan fill="{SOURCE}">source</tspan>, '
        f'<tspan fill="{TARGET}">target</tspan>'
    )
    parts = [
        f'<text x="{WIDTH / 2}" y="-24" text-anchor="middle" font-size="14">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="-8" text-anchor="middle">{below}</text>',
    ]
    for m in drawn.means:
        (x1, y1), (x2, y2), (x, y) = m.source, m.target, m.label
        parts += [
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#b0b0b0"/>',
            f'<circle cx="{x1}" cy="{y1}" r="4" fill="white" stroke="{SOURCE}" stroke-width="2"/>',
            f'<circle cx="{x2}" cy="{y2}" r="4" fill="{TARGET}"/>',
            f'<text x="{x}" y="{y}" text-anchor="{m.anchor}">{escape(m.name)}</text>',
        ]
    return parts
