"""What stands along a street: houses, walls, fences, parks."""

from dataclasses import dataclass

import numpy as np

from fastass.pipelines.toycity.objects.greenery import hedge, tree
from fastass.pipelines.toycity.objects.houses import house
from fastass.pipelines.toycity.objects.solids import Box, Frame, Quad, box, cast_shadow, panes, part
from fastass.pipelines.toycity.objects.street import CURB, strip
from fastass.pipelines.toycity.rendering.canvas import NEAR, Canvas
from fastass.pipelines.toycity.rendering.materials import Look

SETBACK = 12.0  # metres between a garden's edge and the house behind it


@dataclass(frozen=True)
class Plot:
    """A piece z0 … z1 of a side of the street, from x outward: house, wall, fence or park."""

    kind: str
    side: int
    x: float
    z0: float
    z1: float
    storeys: int

    def footprint(
        self, rng: np.random.Generator, setback: float
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """((z0, z1), (x0, x1)) of a house `setback` metres behind the edge."""
        near = self.x + self.side * setback
        far = near + self.side * float(rng.uniform(9, 13))
        return (self.z0, self.z1), (min(near, far), max(near, far))


def wall(canvas: Canvas, look: Look, rng: np.random.Generator, plot: Plot) -> None:
    """A garden wall with a coping."""
    paint = look.paint("wall", rng)
    height = float(rng.uniform(1.6, 2.8))
    b = sorted((plot.x, plot.x + plot.side * 0.3))
    shape = Box((plot.z0, plot.z1), (b[0], b[1]), (0, height))
    cast_shadow(canvas, Frame(0, 0, 0), shape)
    for quad, brightness in box(canvas, Frame(0, 0, 0), shape, paint).values():
        canvas.surface(part(quad, 0, 0.92, 1, 1), paint.lit(brightness * 1.2))


def fence(canvas: Canvas, look: Look, rng: np.random.Generator, plot: Plot) -> None:
    """Posts, rails and pickets."""
    paint = look.paint("fence", rng)
    height = float(rng.uniform(1.2, 2.0))
    lo, hi = (max(plot.z0, NEAR + 0.2), plot.z1)
    if hi <= lo:
        return
    x = plot.x
    quad: Quad = ((x, 0, lo), (x, 0, hi), (x, height, hi), (x, height, lo))
    canvas.surface(quad, paint.lit(0.72))
    count = int(min((hi - lo) * 2.5, 46))
    pickets = [((i + 0.2) / count, (i + 0.7) / count) for i in range(count)]
    panes(canvas, quad, pickets, [(0.02, 0.96)], lambda i, j: paint)
    for v in (0.2, 0.78):
        canvas.surface(part(quad, 0, v, 1, v + 0.08), paint.lit(1.12))


def draw_plot(canvas: Canvas, look: Look, rng: np.random.Generator, plot: Plot) -> None:
    """One plot with all that stands on it."""
    canvas.depth = max(2.0, (max(plot.z0, 0.0) + plot.z1) / 2)
    if plot.kind == "house":
        house(canvas, look, rng, plot.footprint(rng, 0.0), plot.storeys, True)
        return
    side, x = plot.side, plot.x
    spots = sorted(
        (
            (float(rng.uniform(max(plot.z0, 3), max(plot.z1, 4))), float(rng.uniform(2.5, 9)))
            for _ in range(max(1, int((plot.z1 - plot.z0) / 4)))
        ),
        reverse=True,
    )
    if plot.kind != "park" or rng.random() < 0.4:
        house(canvas, look, rng, plot.footprint(rng, SETBACK), plot.storeys, False)
    for z, offset in spots:
        tree(canvas, look, rng, x + side * offset, z, 0.9)
    if plot.kind == "wall":
        wall(canvas, look, rng, plot)
    elif plot.kind == "fence":
        fence(canvas, look, rng, plot)
    elif rng.random() < 0.5:
        hedge(canvas, look, rng, (plot.z0, plot.z1), x, side)


def draw_lawn(canvas: Canvas, look: Look, rng: np.random.Generator, plot: Plot) -> None:
    """The ground of a plot that is not built up."""
    if plot.kind != "house":
        x = sorted((plot.x, plot.x + plot.side * 60))
        z = (max(plot.z0, 0.0), plot.z1)
        if z[1] > z[0]:
            strip(canvas, (x[0], x[1]), z, CURB, look.paint("terrain", rng))


def skyline(
    canvas: Canvas, look: Look, rng: np.random.Generator, distance: float, share: float
) -> None:
    """Houses and trees that close the view; `share` of it is houses."""
    canvas.depth = distance
    middle = -canvas.view.curve * distance**2
    x = middle - 120.0
    while x < middle + 120:
        w = float(rng.uniform(8, 22))
        if rng.random() < share:
            h = float(rng.uniform(8, 26))
            shape = Box((distance, distance + 5), (x, x + w), (0, h))
            paint = look.paint("building", rng)
            for quad, brightness in box(canvas, Frame(0, 0, 0), shape, paint).values():
                glass = look.paint("window", rng).lit(brightness)
                for row in range(int(h / 4)):
                    canvas.surface(
                        part(quad, 0.08, (row * 4 + 1.5) / h, 0.92, (row * 4 + 3) / h), glass
                    )
        else:
            for _ in range(3):
                spot = x + float(rng.uniform(0, w)) - canvas.view.camera_x
                tree(canvas, look, rng, spot, distance, float(rng.uniform(1.0, 1.8)))
        x += w
