"""Poles and what hangs on them; bins, benches and bollards."""

import numpy as np

from fastass.pipelines.toycity.objects.people import Figure, shadow
from fastass.pipelines.toycity.objects.solids import Box, Frame, box, cast_shadow
from fastass.pipelines.toycity.rendering.canvas import Canvas
from fastass.pipelines.toycity.rendering.materials import Look


def _post(
    figure: Figure, look: Look, rng: np.random.Generator, height: float, width: float
) -> None:
    paint = look.paint("pole", rng)
    half = width / 2
    figure.shape([(-half, 0), (half, 0), (half, height), (-half, height)], paint)
    figure.shape([(0, 0), (half, 0), (half, height), (0, height)], paint.lit(1.25))
    figure.shape(
        [(-0.8 * width, 0), (0.8 * width, 0), (0.8 * width, 0.3), (-0.8 * width, 0.3)], paint
    )


def lamp_post(
    canvas: Canvas, look: Look, rng: np.random.Generator, x: float, z: float, side: int
) -> None:
    """A street lamp whose arm reaches over the carriageway."""
    figure = Figure(canvas, x, z)
    height = float(rng.uniform(5.5, 7.5))
    shadow(canvas, x, z, 0.1, height)
    _post(figure, look, rng, height, 0.17)
    paint = look.paint("pole", rng)
    figure.limb(
        [(0, height - 0.2), (-side * 0.6, height + 0.2), (-side * 1.6, height + 0.25)], 0.11, paint
    )
    figure.limb([(-side * 1.3, height + 0.22), (-side * 2.0, height + 0.22)], 0.2, paint.lit(1.3))


def traffic_light(
    canvas: Canvas, look: Look, rng: np.random.Generator, x: float, z: float, side: int
) -> None:
    """A signal on a post, often with a second one on an arm."""
    figure = Figure(canvas, x, z)
    shadow(canvas, x, z, 0.1, 4.0)
    _post(figure, look, rng, 3.9, 0.15)
    red = bool(rng.random() < 0.5)
    spots = [(0.0, 2.7)]
    if rng.random() < 0.6:
        reach = -side * float(rng.uniform(2.2, 3.6))
        figure.limb([(0, 3.8), (0, 5.3), (reach, 5.5)], 0.13, look.paint("pole", rng))
        spots.append((reach, 4.7))
    for dx, y in spots:
        housing = look.paint("light", rng)
        figure.shape(
            [(dx - 0.2, y), (dx + 0.2, y), (dx + 0.2, y + 1.05), (dx - 0.2, y + 1.05)], housing
        )
        for i, on in enumerate((not red, False, red)):
            color = (
                look.paint("lamp red" if i == 2 else "lamp green", rng) if on else housing.lit(0.45)
            )
            figure.disc(dx, y + 0.2 + 0.32 * i, 0.13, color)


def sign_post(canvas: Canvas, look: Look, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign: round, triangular, square or a direction board."""
    figure = Figure(canvas, x, z)
    height = float(rng.uniform(2.2, 2.8))
    shadow(canvas, x, z, 0.1, height)
    _post(figure, look, rng, height, 0.11)
    edge, inner = look.paint("sign", rng), look.paint("sign face", rng)
    shape = int(rng.integers(4))
    y, r = height, 0.38
    if shape == 0:
        figure.disc(0, y, r, edge)
        figure.disc(0, y, r * 0.68, inner)
    elif shape == 1:
        for k, paint in ((1.0, edge), (0.58, inner)):
            figure.shape(
                [(-r * k * 1.1, y - 0.3 * k), (r * k * 1.1, y - 0.3 * k), (0, y + 0.6 * k)], paint
            )
    elif shape == 2:
        for k, paint in ((1.0, edge), (0.7, inner)):
            figure.shape(
                [(-r * k, y - r * k), (r * k, y - r * k), (r * k, y + r * k), (-r * k, y + r * k)],
                paint,
            )
    else:
        figure.shape([(-0.8, y - 0.3), (0.8, y - 0.3), (0.8, y + 0.3), (-0.8, y + 0.3)], edge)
        for row in (-0.12, 0.12):
            figure.limb([(-0.6, y + row), (0.5, y + row)], 0.09, inner)


def clutter(canvas: Canvas, look: Look, rng: np.random.Generator, x: float, z: float) -> None:
    """A bin, a box, a bench (static), or sacks put out (dynamic)."""
    frame = Frame(x, z, float(rng.uniform(-0.3, 0.3)))
    if rng.random() < 0.3:
        paint = look.paint("dynamic", rng)
        figure = Figure(canvas, x, z)
        for _ in range(3):
            figure.disc(float(rng.uniform(-0.4, 0.4)), 0.25, float(rng.uniform(0.2, 0.32)), paint)
        return
    size = float(rng.uniform(0.4, 0.8))
    shape = Box((0, size), (-size / 2, size / 2), (0, float(rng.uniform(0.8, 1.4))))
    cast_shadow(canvas, frame, shape)
    box(canvas, frame, shape, look.paint("static", rng))
