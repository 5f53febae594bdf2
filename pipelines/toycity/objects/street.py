"""The ground of a street: carriageway, pavements, verges, rails and painted lines."""

from dataclasses import dataclass

import numpy as np

from fastass.pipelines.toycity.rendering.canvas import Canvas, Paint
from fastass.pipelines.toycity.rendering.materials import Look

FAR = 160.0  # metres; the ground ends here
CURB = 0.13  # height of a pavement
# Where long strips are cut, so that they follow the bend.
CUTS = (0.0, 4.0, 8.0, 14.0, 22.0, 34.0, 50.0, 75.0, 110.0, FAR)


@dataclass(frozen=True)
class Street:
    """The carriageway spans x = left … right; pavements of widths walk[0], walk[1] follow outside.

    verge: width of grass between kerb and pavement on either side; cross: the stretch (z0, z1)
    of a crossing street, or None; rails: x of the middle of a tram track, or None.
    """

    left: float
    right: float
    walk: tuple[float, float]
    verge: tuple[float, float]
    lanes: int
    cross: tuple[float, float] | None
    rails: float | None

    def edge(self, side: int) -> float:
        """x of the kerb on side −1 or +1."""
        return self.right if side > 0 else self.left

    def outside(self, side: int) -> float:
        """x where the pavement ends and plots begin."""
        i = int(side > 0)
        return self.edge(side) + side * (self.walk[i] + self.verge[i])

    def stretches(self) -> list[tuple[float, float]]:
        """The parts of z that are not crossing."""
        if self.cross is None:
            return [(0.0, FAR)]
        return [(0.0, self.cross[0]), (self.cross[1], FAR)]


def strip(
    canvas: Canvas, x: tuple[float, float], z: tuple[float, float], y: float, paint: Paint
) -> None:
    """A level strip from x[0] to x[1] that follows the bend."""
    cuts = [z[0], *(c for c in CUTS if z[0] < c < z[1]), z[1]]
    side0 = [(x[0], y, c) for c in cuts]
    side1 = [(x[1], y, c) for c in reversed(cuts)]
    canvas.surface(side0 + side1, paint)


def kerb(canvas: Canvas, x: float, z: tuple[float, float], paint: Paint) -> None:
    """The upright stone between carriageway and pavement."""
    cuts = [z[0], *(c for c in CUTS if z[0] < c < z[1]), z[1]]
    canvas.surface([(x, 0.0, c) for c in cuts] + [(x, CURB, c) for c in reversed(cuts)], paint)


def draw_ground(canvas: Canvas, look: Look, rng: np.random.Generator, street: Street) -> None:
    """Everything flat, from the base up."""
    strip(canvas, (-120, 120), (0, FAR * 3), 0, look.paint("ground", rng))
    road = look.paint("road", rng)
    if street.cross:
        strip(canvas, (-120, 120), street.cross, 0, road)
    strip(canvas, (street.left, street.right), (0, FAR), 0, road)
    _patches(canvas, look, rng, street)
    if street.rails is not None:
        _rails(canvas, look, rng, street.rails)
    _markings(canvas, look, rng, street)
    for side in (-1, 1):
        i = int(side > 0)
        edge, outside = street.edge(side), street.outside(side)
        walk, stone = look.paint("sidewalk", rng), look.paint("kerb", rng)
        grass = look.paint("terrain", rng)
        for z in street.stretches():
            strip(canvas, (edge, outside), z, CURB, walk)
            if street.verge[i]:
                strip(canvas, (edge, edge + side * street.verge[i]), z, CURB, grass)
            strip(canvas, (edge, edge + side * 0.22), z, CURB, stone)
            kerb(canvas, edge, z, stone.lit(0.75))


def _patches(canvas: Canvas, look: Look, rng: np.random.Generator, street: Street) -> None:
    """Mended asphalt and manhole covers."""
    for _ in range(int(rng.integers(0, 4))):
        x, z = float(rng.uniform(street.left, street.right - 2)), float(rng.uniform(4, 40))
        w, d = float(rng.uniform(0.6, 2)), float(rng.uniform(2, 12))
        strip(canvas, (x, min(x + w, street.right)), (z, z + d), 0, look.paint("patch", rng))
    for _ in range(int(rng.integers(0, 3))):
        x, z = float(rng.uniform(street.left + 1, street.right - 1)), float(rng.uniform(5, 25))
        turn = np.linspace(0, 2 * np.pi, 11)[:-1]
        cover = [(x + 0.35 * float(np.cos(t)), 0.0, z + 0.35 * float(np.sin(t))) for t in turn]
        canvas.surface(cover, look.paint("road", rng).lit(0.78))


def _rails(canvas: Canvas, look: Look, rng: np.random.Generator, x: float) -> None:
    bed = look.paint("rails", rng)
    strip(canvas, (x - 1.2, x + 1.2), (0, FAR), 0, bed)
    for rail in (-0.72, 0.72):
        strip(canvas, (x + rail - 0.06, x + rail + 0.06), (0, FAR), 0, bed.lit(1.5))


def _markings(canvas: Canvas, look: Look, rng: np.random.Generator, street: Street) -> None:
    """Lane lines, edge lines, crosswalks and stop lines."""
    paint = look.paint("marking", rng)
    width = (street.right - street.left) / street.lanes
    for lane in range(1, street.lanes):
        x = street.left + lane * width
        middle = lane * 2 == street.lanes
        for z0, z1 in street.stretches():
            if middle and street.lanes > 2:
                for offset in (-0.16, 0.16):
                    strip(canvas, (x + offset - 0.06, x + offset + 0.06), (z0, z1 - 5), 0, paint)
                continue
            for z in np.arange(z0 + float(rng.uniform(0, 6)), min(z1 - 6, 80), 8.0):
                strip(canvas, (x - 0.07, x + 0.07), (float(z), float(z) + 3.5), 0, paint)
    if rng.random() < 0.5:
        for x in (street.left + 0.35, street.right - 0.35):
            for z in street.stretches():
                strip(canvas, (x - 0.06, x + 0.06), z, 0, paint)
    if street.cross and rng.random() < 0.8:
        for near in (street.cross[0] - 4.0, street.cross[1] + 0.8):
            for x in np.arange(street.left + 0.4, street.right - 0.6, 1.1):
                strip(canvas, (float(x), float(x) + 0.55), (near, near + 3.0), 0, paint)
        z = street.cross[0] - 5.4
        strip(canvas, ((street.left + street.right) / 2, street.right), (z, z + 0.5), 0, paint)
