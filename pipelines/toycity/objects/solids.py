"""Boxes that stand on the ground and the pictures on their faces."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastass.pipelines.toycity.rendering.canvas import NEAR, Canvas, Paint, Point3

Quad = tuple[Point3, Point3, Point3, Point3]  # bottom left, bottom right, top right, top left


def bilinear(quad: Quad, u: float, v: float) -> Point3:
    """The point of a quad at fractions u (left to right) and v (bottom to top)."""
    (a, b, c, d) = quad
    p, q, r, s = (1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v
    return (
        p * a[0] + q * b[0] + r * c[0] + s * d[0],
        p * a[1] + q * b[1] + r * c[1] + s * d[1],
        p * a[2] + q * b[2] + r * c[2] + s * d[2],
    )


def part(quad: Quad, u0: float, v0: float, u1: float, v1: float) -> Quad:
    """The sub-quad between the fractions (u0, v0) and (u1, v1)."""
    return (
        bilinear(quad, u0, v0),
        bilinear(quad, u1, v0),
        bilinear(quad, u1, v1),
        bilinear(quad, u0, v1),
    )


@dataclass(frozen=True)
class Frame:
    """A thing's own axes: a along its length, b to its right, y up; yaw 0 looks along +z."""

    x: float
    z: float
    yaw: float

    def world(self, a: float, b: float, y: float) -> Point3:
        """Own coordinates → world."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return (self.x + b * c + a * s, y, self.z - b * s + a * c)

    def quad(self, points: Sequence[Point3]) -> Quad:
        """Four own points (a, b, y) → a world quad."""
        p, q, r, s = (self.world(*point) for point in points)
        return (p, q, r, s)


@dataclass(frozen=True)
class Box:
    """A frustum: a rectangle a × b at height y[0] and another, maybe smaller, at y[1]."""

    a: tuple[float, float]
    b: tuple[float, float]
    y: tuple[float, float]
    top_a: tuple[float, float] | None = None
    top_b: tuple[float, float] | None = None

    def faces(self, frame: Frame) -> dict[str, Quad]:
        """The five faces that can be seen, each as from outside."""
        (a0, a1), (b0, b1), (y0, y1) = self.a, self.b, self.y
        c0, c1 = self.top_a or self.a
        d0, d1 = self.top_b or self.b
        corner = {
            "rear": ((a0, b0, y0), (a0, b1, y0), (c0, d1, y1), (c0, d0, y1)),
            "front": ((a1, b1, y0), (a1, b0, y0), (c1, d0, y1), (c1, d1, y1)),
            "left": ((a1, b0, y0), (a0, b0, y0), (c0, d0, y1), (c1, d0, y1)),
            "right": ((a0, b1, y0), (a1, b1, y0), (c1, d1, y1), (c0, d1, y1)),
            "top": ((c0, d0, y1), (c0, d1, y1), (c1, d1, y1), (c1, d0, y1)),
        }
        return {name: frame.quad(points) for name, points in corner.items()}


def light(canvas: Canvas, quad: Quad) -> float:
    """Brightness of a face under the canvas's sun: 0.72 in its own shade, up to 1.12."""
    p, q, _, s = quad
    e = (q[0] - p[0], q[1] - p[1], q[2] - p[2])
    f = (s[0] - p[0], s[1] - p[1], s[2] - p[2])
    # f × e is the outward normal of a quad listed counter-clockwise, z pointing forward
    n = (f[1] * e[2] - f[2] * e[1], f[2] * e[0] - f[0] * e[2], f[0] * e[1] - f[1] * e[0])
    length = math.sqrt(n[0] ** 2 + n[1] ** 2 + n[2] ** 2) or 1.0
    cosine = (n[0] * canvas.sun[0] + n[1] * canvas.sun[1] + n[2] * canvas.sun[2]) / length
    return 0.72 + 0.4 * max(0.0, cosine)


def box(canvas: Canvas, frame: Frame, shape: Box, paint: Paint) -> dict[str, tuple[Quad, float]]:
    """Draw a box; returns the visible faces by name with their brightness."""
    seen = {}
    for name, quad in shape.faces(frame).items():
        brightness = light(canvas, quad)
        if canvas.face(quad, paint, brightness):
            seen[name] = (quad, brightness)
    return seen


def panes(
    canvas: Canvas,
    quad: Quad,
    columns: Sequence[tuple[float, float]],
    rows: Sequence[tuple[float, float]],
    paint_of: Callable[[int, int], Paint | None],
) -> None:
    """A grid on an upright face: column i spans fractions u, row j fractions v; None stays wall.

    Nothing is drawn of columns that are too near, out of sight, or narrower than a fragment pixel.
    """
    view = canvas.view
    for i, span in enumerate(columns):
        foot = [bilinear(quad, u, 0.0) for u in span]
        if foot[0][2] < NEAR or foot[1][2] < NEAR:
            continue
        (u0, low0), (u1, low1) = view.project(foot)
        if max(u0, u1) < 0 or min(u0, u1) > view.width or abs(u1 - u0) < 0.5:
            continue
        (_, high0), (_, high1) = view.project([bilinear(quad, u, 1.0) for u in span])
        canvas.depth = (foot[0][2] + foot[1][2]) / 2
        for j, (v0, v1) in enumerate(rows):
            paint = paint_of(i, j)
            if paint is not None:
                canvas.polygon(
                    [
                        (u0, low0 + v0 * (high0 - low0)),
                        (u1, low1 + v0 * (high1 - low1)),
                        (u1, low1 + v1 * (high1 - low1)),
                        (u0, low0 + v1 * (high0 - low0)),
                    ],
                    paint,
                )


def cast_shadow(canvas: Canvas, frame: Frame, shape: Box) -> None:
    """Shade the ground under and beside a box, away from the sun."""
    reach = min(shape.y[1] / max(canvas.sun[1], 0.2), 30.0)
    dx, dz = -canvas.sun[0] * reach, -canvas.sun[2] * reach
    (a0, a1), (b0, b1) = shape.a, shape.b
    foot = [frame.world(a, b, 0.0) for a, b in ((a0, b0), (a0, b1), (a1, b1), (a1, b0))]
    away = [(x + dx, 0.0, z + dz) for x, _, z in foot]
    canvas.shadow(foot)
    canvas.shadow(away)
    for i in range(4):
        j = (i + 1) % 4
        canvas.shadow([foot[i], foot[j], away[j], away[i]])
