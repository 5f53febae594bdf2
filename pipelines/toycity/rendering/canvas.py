"""The drawing surface: a pinhole view of a flat world, and a buffer of fragment numbers.

World axes in metres: x right, y up, z forward; the camera stands at z = 0. Every polygon drawn
gets a number of its own, and only that number goes into the picture. Colour, label, depth,
material and instance are looked up from it afterwards, so that image and label cannot disagree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[float, float, float]
Point2 = tuple[float, float]
Point3 = tuple[float, float, float]

OVERSAMPLING = 2  # fragment pixels along each side of an image pixel
NEAR = 0.8  # metres; nothing nearer is drawn


class Paint(NamedTuple):
    """What a fragment is made of: raw label id (as GTA5 has it), material number, colour."""

    label: int
    material: int
    color: Color

    def lit(self, brightness: float) -> "Paint":
        """The same paint, brighter or darker."""
        label, material, (r, g, b) = self
        return Paint(label, material, (r * brightness, g * brightness, b * brightness))


@dataclass(frozen=True)
class View:
    """A camera without roll. Lengths of the picture in image pixels, the others in metres.

    horizon: row of the horizon; curve: the street bends by curve · z² to the right.
    """

    width: int
    height: int
    focal: float
    center: float
    horizon: float
    camera_x: float
    camera_y: float
    curve: float

    def project(self, points: Iterable[Point3]) -> list[Point2]:
        """World points with z > 0 → (column, row)."""
        return [
            (
                self.center + self.focal * (x + self.curve * z * z - self.camera_x) / z,
                self.horizon - self.focal * (y - self.camera_y) / z,
            )
            for x, y, z in points
        ]


def clip_near(points: Sequence[Point3]) -> list[Point3]:
    """The part of a polygon that lies beyond the near plane."""
    if all(p[2] >= NEAR for p in points):
        return list(points)
    kept: list[Point3] = []
    for a, b in zip(points, [*points[1:], points[0]], strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            t = (NEAR - a[2]) / (b[2] - a[2])
            kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR))
    return kept


class Fragments(NamedTuple):
    """Tables by fragment number [n]: label, material uint8; instance uint16; colors uint8 [n,3];
    depth float32 [n,4]: the inverse depth (1/m) of column u is depth[0] + depth[1] · u, kept
    between depth[2] and depth[3]. Fragments that lie flat get their depth from their row instead.
    """

    label: np.ndarray
    material: np.ndarray
    instance: np.ndarray
    colors: np.ndarray
    depth: np.ndarray


def _inverse_depth(world: Sequence[Point3], flat: Sequence[Point2]) -> tuple[float, ...]:
    """The row of `Fragments.depth` of an upright polygon; its first two points are its foot."""
    near, far = 1 / min(p[2] for p in world), 1 / max(p[2] for p in world)
    run = flat[1][0] - flat[0][0]
    slope = (1 / world[1][2] - 1 / world[0][2]) / run if abs(run) > 0.5 else 0.0
    return (1 / world[0][2] - slope * flat[0][0], slope, far, near)


def _turned_away(points: Sequence[Point2]) -> bool:
    """Whether a projected face shows its back."""
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        area += x0 * y1 - x1 * y0
    return area >= 0


class Canvas:
    """Collects fragments in painter's order.

    `depth` (metres; of flat figures) and `instance` of what is drawn next are attributes to set
    before drawing.
    """

    def __init__(self, view: View, sun: Point3) -> None:
        self.view = view
        self.sun = sun
        size = (view.width * OVERSAMPLING, view.height * OVERSAMPLING)
        self._ids = Image.new("I", size, 0)
        self._draw = ImageDraw.Draw(self._ids)
        self._shadow = Image.new("L", (view.width, view.height), 0)
        self._shadow_draw = ImageDraw.Draw(self._shadow)
        self._rows: list[tuple[Paint, tuple[float, ...], int]] = []
        self.depth = 1000.0
        self.instance = 0

    # -- fragments -------------------------------------------------------------------------------

    def fragment(self, paint: Paint, depth: tuple[float, ...] | None = None) -> int:
        """A new fragment number."""
        inverse = 1 / self.depth
        self._rows.append((paint, depth or (inverse, 0.0, inverse, inverse), self.instance))
        return len(self._rows) - 1

    def polygon(
        self, points: Sequence[Point2], paint: Paint, depth: tuple[float, ...] | None = None
    ) -> None:
        """A filled polygon in image pixels."""
        if len(points) >= 3:
            number = self.fragment(paint, depth)
            scaled = [(u * OVERSAMPLING, v * OVERSAMPLING) for u, v in points]
            self._draw.polygon(scaled, fill=number)

    def disc(self, u: float, v: float, ru: float, rv: float, paint: Paint) -> None:
        """A filled ellipse about (u, v) with radii ru, rv, in image pixels."""
        s = OVERSAMPLING
        box = ((u - ru) * s, (v - rv) * s, (u + ru) * s, (v + rv) * s)
        self._draw.ellipse(box, fill=self.fragment(paint))

    def stroke(self, points: Sequence[Point2], width: float, paint: Paint) -> None:
        """A line of a width in image pixels, at least half a pixel wide."""
        s = OVERSAMPLING
        self._draw.line(
            [(u * s, v * s) for u, v in points],
            fill=self.fragment(paint),
            width=max(1, round(width * s)),
            joint="curve" if width > 2 and len(points) > 2 else None,
        )

    def surface(self, points: Sequence[Point3], paint: Paint) -> None:
        """A planar polygon in the world, either side visible."""
        clipped = clip_near(points)
        if len(clipped) >= 3:
            flat = self.view.project(clipped)
            self.polygon(flat, paint, _inverse_depth(clipped, flat))

    def face(self, points: Sequence[Point3], paint: Paint, brightness: float) -> bool:
        """A side of a solid, counter-clockwise; False if it is out of sight or shows its back."""
        clipped = clip_near(points)
        if len(clipped) < 3:
            return False
        flat = self.view.project(clipped)
        beside = all(u < 0 for u, _ in flat) or all(u > self.view.width for u, _ in flat)
        if beside or _turned_away(flat):
            return False
        self.polygon(flat, paint.lit(brightness), _inverse_depth(clipped, flat))
        return True

    def shadow(self, points: Sequence[Point3]) -> None:
        """Shade the ground inside a polygon on the ground."""
        clipped = clip_near(points)
        if len(clipped) >= 3:
            self._shadow_draw.polygon(self.view.project(clipped), fill=255)

    # -- results ---------------------------------------------------------------------------------

    def ids(self) -> np.ndarray:
        """Fragment numbers int32 [H·s, W·s], s = OVERSAMPLING."""
        return np.asarray(self._ids)

    def shade(self) -> np.ndarray:
        """Ground shadow uint8 [H,W]: 255 inside."""
        return np.asarray(self._shadow)

    def fragments(self) -> Fragments:
        """What the fragment numbers mean."""
        paints, depths, instances = zip(*self._rows, strict=True)
        labels, materials, colors = zip(*paints, strict=True)
        return Fragments(
            np.array(labels, np.uint8),
            np.array(materials, np.uint8),
            np.array(instances, np.uint16),
            np.clip(np.array(colors, np.float32) + 0.5, 0, 255).astype(np.uint8),
            np.array(depths, np.float32),
        )
