"""Trees and hedges."""

import numpy as np

from fastass.pipelines.toycity.objects.people import shadow
from fastass.pipelines.toycity.objects.solids import Box, Frame, box
from fastass.pipelines.toycity.rendering.canvas import Canvas
from fastass.pipelines.toycity.rendering.materials import Look


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
    foot, fork, top = 0.16 * size * k, 0.10 * size * k, v - middle * k
    canvas.polygon([(u - foot, v), (u + foot, v), (u + fork, top), (u - fork, top)], trunk)
    tufts = 26 if k * radius > 12 else 13 if k * radius > 5 else 7
    turn = rng.uniform(0, 2 * np.pi, tufts)
    away = np.sqrt(rng.random(tufts))
    dx, dy = away * np.cos(turn), 0.9 * away * np.sin(turn)
    side = 0.14 if canvas.sun[0] > 0 else -0.14
    shade = 0.8 + 0.22 * dy + side * dx + rng.normal(0, 0.06, tufts)
    tuft = radius * k * rng.uniform(0.26, 0.44, tufts)
    order = np.argsort(dy)  # lower tufts first, the lit ones on top
    rows = np.stack([dx * radius * k, dy * radius * k, shade, tuft], 1)[order]
    for right, up, lit, r in rows.tolist():
        canvas.disc(u + right, top - up, r, r * 0.9, leaves.lit(lit))


def hedge(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    z: tuple[float, float],
    x: float,
    side: int,
) -> None:
    """A clipped hedge along x, on the given side of it."""
    height = float(rng.uniform(0.8, 1.6))
    b = sorted((x + side * 0.2, x + side * 1.3))
    paint = look.paint("leaves", rng)
    box(canvas, Frame(0, 0, 0), Box(z, (b[0], b[1]), (0, height)), paint)
