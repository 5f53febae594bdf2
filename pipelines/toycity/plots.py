"""What stands along a street: houses, walls, fences, parks and trees."""

from dataclasses import dataclass

import numpy as np

from fastass.pipelines.toycity.canvas import NEAR, Canvas, Paint
from fastass.pipelines.toycity.look import Look
from fastass.pipelines.toycity.people import shadow
from fastass.pipelines.toycity.solids import Box, Frame, Quad, box, cast_shadow, part
from fastass.pipelines.toycity.street import CURB, strip


@dataclass(frozen=True)
class Plot:
    """A piece z0 … z1 of a side of the street, from x outward: house, wall, fence or park."""

    kind: str
    side: int
    x: float
    z0: float
    z1: float
    storeys: int


def house(canvas: Canvas, look: Look, rng: np.random.Generator, plot: Plot, setback: float) -> None:
    """A house of plot.storeys storeys, `setback` metres behind the plot's edge."""
    paint, glass = look.paint("building", rng), look.paint("window", rng)
    storey = float(rng.uniform(2.9, 3.5))
    height = plot.storeys * storey + 0.8
    near = plot.x + plot.side * setback
    far = near + plot.side * float(rng.uniform(9, 13))
    b = (min(near, far), max(near, far))
    frame = Frame(0.0, 0.0, 0.0)
    if setback == 0:
        cast_shadow(canvas, frame, Box((plot.z0, plot.z1), b, (0, height)))
    shape = Box((plot.z0, plot.z1), b, (0, height))
    seen = box(canvas, frame, shape, paint)
    if rng.random() < 0.5:
        slope = Box(
            (plot.z0, plot.z1), b, (height, height + 2.4), (plot.z0, plot.z1), (b[0] + 3, b[1] - 3)
        )
        box(canvas, frame, slope, look.paint("roof", rng))
    street_side = "right" if plot.side < 0 else "left"
    for name, face in seen.items():
        if name == street_side:
            columns = max(2, round((plot.z1 - plot.z0) / float(rng.uniform(2.2, 3.2))))
            _facade(
                canvas, look, rng, face, plot.storeys, columns, glass, paint, height, setback == 0
            )
        elif name == "rear" and rng.random() < 0.5:
            _facade(canvas, look, rng, face, plot.storeys, 3, glass, paint, height, False)


def _facade(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    face: tuple[Quad, float],
    storeys: int,
    columns: int,
    glass: Paint,
    wall: Paint,
    height: float,
    shops: bool,
) -> None:
    """Rows of windows, a cornice, and shop fronts or doors on the ground floor."""
    quad, brightness = face
    glass = glass.lit(brightness)
    step = (height - 0.8) / storeys / height
    wide = float(rng.uniform(0.4, 0.62))
    tall = float(rng.uniform(0.45, 0.65))
    trim = wall.lit(brightness * (1.18 if rng.random() < 0.5 else 0.82))
    canvas.surface(part(quad, 0, 0.97, 1, 1), trim)
    size = canvas.view.focal * (quad[0][2] - quad[1][2]) / columns / max(NEAR, quad[0][2]) ** 2
    if abs(size) * abs(quad[0][0] - canvas.view.camera_x) < 0.4:
        return  # windows smaller than a fragment pixel
    if shops and rng.random() < 0.45:
        front = look.paint("shop", rng).lit(brightness)
        canvas.surface(part(quad, 0.02, 0.01, 0.98, step * 0.72), front)
        canvas.surface(part(quad, 0.0, step * 0.74, 1.0, step * 0.98), look.paint("shop", rng))
        pane = glass.lit(1.25)
        for i in range(columns):
            span = ((i + 0.12) / columns, (i + 0.88) / columns)
            canvas.surface(part(quad, span[0], 0.02, span[1], step * 0.66), pane)
        first = 1
    else:
        first = 0
        door = (int(rng.integers(columns)) + 0.3) / columns
        canvas.surface(part(quad, door, 0, door + 0.4 / columns, step * 0.75), trim.lit(0.55))
        if rng.random() < 0.5:
            canvas.surface(part(quad, 0, step * 0.97, 1, step * 1.03), trim)
    for row in range(first, storeys):
        v0 = step * (row + 0.25)
        v1 = v0 + step * tall
        for i in range(columns):
            u0 = (i + 0.5 - wide / 2) / columns
            if row == 0 and abs(u0 - door) < 0.5 / columns:
                continue
            pane = glass if (i * 7 + row * 3) % 4 else glass.lit(1.4)
            canvas.surface(part(quad, u0, v0, u0 + wide / columns, v1), pane)


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
    for i in range(count):
        canvas.surface(part(quad, (i + 0.2) / count, 0.02, (i + 0.7) / count, 0.96), paint)
    for v in (0.2, 0.78):
        canvas.surface(part(quad, 0, v, 1, v + 0.08), paint.lit(1.12))


def tree(
    canvas: Canvas, look: Look, rng: np.random.Generator, x: float, z: float, size: float = 1.0
) -> None:
    """A tree with a trunk and a crown of many tufts."""
    trunk, leaves = look.paint("trunk", rng), look.paint("leaves", rng)
    height = float(rng.uniform(5.0, 8.5)) * size
    radius = height * float(rng.uniform(0.26, 0.36))
    middle = height - radius * 0.85
    view = canvas.view
    ((u, v),) = view.project([(x, 0.0, z)])
    k = view.focal / z
    shadow(canvas, x, z, radius * 0.6, middle)
    if u + radius * k < -20 or u - radius * k > view.width + 20:
        return
    w = 0.16 * size
    canvas.polygon(
        [
            (u - w * k, v),
            (u + w * k, v),
            (u + w * 0.6 * k, v - middle * k),
            (u - w * 0.6 * k, v - middle * k),
        ],
        trunk,
    )
    tufts = 26 if k * radius > 12 else 12
    spots = []
    for _ in range(tufts):
        angle, r = float(rng.uniform(0, 2 * np.pi)), radius * float(np.sqrt(rng.uniform(0, 1)))
        spots.append((r * np.cos(angle), 0.9 * r * np.sin(angle)))
    spots.sort(key=lambda p: p[1])  # lower tufts first, the lit ones on top
    light = 1 if canvas.sun[0] > 0 else -1
    for dx, dy in spots:
        shade = 0.8 + 0.22 * dy / radius + 0.14 * light * dx / radius + float(rng.normal(0, 0.06))
        r = radius * float(rng.uniform(0.26, 0.44)) * k
        canvas.disc(u + dx * k, v - (middle + dy) * k, r, r * 0.9, leaves.lit(shade))


def hedge(canvas: Canvas, look: Look, rng: np.random.Generator, plot: Plot) -> None:
    """A clipped hedge along the plot's edge."""
    height = float(rng.uniform(0.8, 1.6))
    b = sorted((plot.x + plot.side * 0.2, plot.x + plot.side * 1.3))
    paint = look.paint("leaves", rng)
    box(canvas, Frame(0, 0, 0), Box((plot.z0, plot.z1), (b[0], b[1]), (0, height)), paint)


def draw_plot(canvas: Canvas, look: Look, rng: np.random.Generator, plot: Plot) -> None:
    """One plot with all that stands on it."""
    canvas.depth = max(2.0, (max(plot.z0, 0.0) + plot.z1) / 2)
    if plot.kind == "house":
        house(canvas, look, rng, plot, 0.0)
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
        house(canvas, look, rng, plot, 12.0)
    for z, offset in spots:
        tree(canvas, look, rng, x + side * offset, z, 0.9)
    if plot.kind == "wall":
        wall(canvas, look, rng, plot)
    elif plot.kind == "fence":
        fence(canvas, look, rng, plot)
    elif rng.random() < 0.5:
        hedge(canvas, look, rng, plot)


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
