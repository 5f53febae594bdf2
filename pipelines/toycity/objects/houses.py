"""Houses and their facades."""

import numpy as np

from fastass.pipelines.toycity.objects.solids import Box, Frame, Quad, box, cast_shadow, panes, part
from fastass.pipelines.toycity.rendering.canvas import Canvas, Paint
from fastass.pipelines.toycity.rendering.materials import Look

PARAPET = 0.8  # metres of wall above the top storey


def house(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    footprint: tuple[tuple[float, float], tuple[float, float]],
    storeys: int,
    on_street: bool,
) -> None:
    """A house on ((z0, z1), (x0, x1)); `on_street`: at the pavement, with shops and a shadow."""
    z, x = footprint
    paint, glass = look.paint("building", rng), look.paint("window", rng)
    height = storeys * float(rng.uniform(2.9, 3.5)) + PARAPET
    frame, shape = Frame(0.0, 0.0, 0.0), Box(z, x, (0, height))
    if on_street:
        cast_shadow(canvas, frame, shape)
    seen = box(canvas, frame, shape, paint)
    if rng.random() < 0.5:
        ridge = Box(z, x, (height, height + 2.4), z, (x[0] + 3, x[1] - 3))
        box(canvas, frame, ridge, look.paint("roof", rng))
    columns = max(2, round((z[1] - z[0]) / float(rng.uniform(2.2, 3.2))))
    has_gable_windows = rng.random() < 0.6
    step = (height - PARAPET) / storeys / height
    for name, (quad, brightness) in seen.items():
        lit = (paint.lit(brightness), glass.lit(brightness))
        if name in ("left", "right"):
            _facade(canvas, look, rng, quad, storeys, columns, step, lit, on_street)
        elif name == "rear" and has_gable_windows:
            _facade(canvas, look, rng, quad, storeys, 3, step, lit, False)


def _facade(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    quad: Quad,
    storeys: int,
    columns: int,
    step: float,
    paints: tuple[Paint, Paint],
    on_street: bool,
) -> None:
    """Windows, a cornice, and a shop front or a door; `step` is a storey's share of the height."""
    wall, glass = paints
    trim = wall.lit(1.18 if rng.random() < 0.5 else 0.82)
    canvas.surface(part(quad, 0, 0.97, 1, 1), trim)
    wide, tall = float(rng.uniform(0.4, 0.62)), float(rng.uniform(0.45, 0.65))
    bright = glass.lit(1.4)
    first, door = 0, -1
    if on_street and rng.random() < 0.45:
        first = 1
        canvas.surface(part(quad, 0.02, 0.01, 0.98, step * 0.72), look.paint("shop", rng))
        canvas.surface(part(quad, 0.0, step * 0.74, 1.0, step * 0.98), look.paint("shop", rng))
        panel = [((i + 0.12) / columns, (i + 0.88) / columns) for i in range(columns)]
        panes(canvas, quad, panel, [(0.02, step * 0.66)], lambda i, j: bright)
    else:
        door = int(rng.integers(columns))
        u = (door + 0.3) / columns
        canvas.surface(part(quad, u, 0, u + 0.4 / columns, step * 0.75), trim.lit(0.55))

    def window(i: int, j: int) -> Paint | None:
        if i == door and j == 0:
            return None
        return glass if (i * 7 + (j + first) * 3) % 4 else bright

    middle = [(i + 0.5) / columns for i in range(columns)]
    half = wide / columns / 2
    sill = [step * (j + 0.25) for j in range(first, storeys)]
    panes(
        canvas,
        quad,
        [(u - half, u + half) for u in middle],
        [(v, v + step * tall) for v in sill],
        window,
    )
