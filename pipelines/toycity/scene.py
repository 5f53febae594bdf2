"""A random street of given statistics, drawn from far to near."""

import math

import numpy as np

from fastass.pipelines.toycity.objects.plots import Plot, draw_lawn, draw_plot, skyline
from fastass.pipelines.toycity.objects.street import FAR, Street, draw_ground
from fastass.pipelines.toycity.objects.traffic import Traffic
from fastass.pipelines.toycity.rendering.canvas import Canvas, View
from fastass.pipelines.toycity.rendering.materials import Look
from fastass.pipelines.toycity.towns import Statistics

RARE = ("tram", "bus", "truck", "motorcycle", "rider")  # visits in turn, one every other image


def build(
    look: Look,
    statistics: Statistics,
    size: tuple[int, int],
    number: int,
    rng: np.random.Generator,
) -> Canvas:
    """A street in a picture of size (width, height). `number` decides which rare thing comes."""
    s, (width, height) = statistics, size
    lanes, lane = int(rng.choice(s.lanes)), float(rng.uniform(*s.lane))
    rare = RARE[number // 2 % len(RARE)] if number % 2 == 0 else ""
    half = lanes * lane / 2 + s.shoulder
    start = float(rng.uniform(14, 45))
    street = Street(
        -half,
        half,
        (float(rng.uniform(*s.walk)), float(rng.uniform(*s.walk))),
        (1.4 * (rng.random() < s.verge), 1.4 * (rng.random() < s.verge)),
        lanes,
        (start, start + float(rng.uniform(7, 12))) if rng.random() < s.crossing else None,
        -lane * 0.62 if rare == "tram" or rng.random() < 0.06 else None,
    )
    view = View(
        width,
        height,
        width * float(rng.uniform(*s.focal)),
        width / 2 + width * float(rng.normal(0, 0.03)),
        height * float(rng.uniform(*s.horizon)),
        lane * 0.5 + float(rng.normal(0, 0.25)),
        float(rng.uniform(*s.camera_y)),
        float(rng.normal(0, s.curve)),
    )
    azimuth, elevation = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.5, 1.1))
    level = math.cos(elevation)
    sun = (level * math.sin(azimuth), math.sin(elevation), level * math.cos(azimuth))
    canvas = Canvas(view, sun)
    canvas.polygon(
        [(-1, -1), (width + 1, -1), (width + 1, height + 1), (-1, height + 1)],
        look.paint("sky", rng),
    )

    plots = _plots(s, street, rng)
    draw_ground(canvas, look, rng, street)
    for plot in plots:
        draw_lawn(canvas, look, rng, plot)
    skyline(canvas, look, rng, FAR, 0.6)
    for plot in sorted(plots, key=lambda p: -p.z1):
        draw_plot(canvas, look, rng, plot)
    things = Traffic(canvas, look, s, street, rng)
    things.place(rare, lane)
    things.draw()
    if rng.random() < s.hood:
        _hood(canvas, look, rng)
    return canvas


def _plots(s: Statistics, street: Street, rng: np.random.Generator) -> list[Plot]:
    plots = []
    for side in (-1, 1):
        x = street.outside(side)
        for start, stop in street.stretches():
            z = start - float(rng.uniform(0, 8)) if start == 0 else start + 3.5
            stop = min(stop - 3.5, 130.0) if stop < FAR else 130.0
            while z < stop - 3:
                length = min(float(rng.uniform(8, 18)), stop - z)
                kind = str(rng.choice(["house", "wall", "fence", "park"], p=s.kinds))
                plots.append(
                    Plot(
                        kind,
                        side,
                        x,
                        z,
                        z + length,
                        int(rng.integers(s.storeys[0], s.storeys[1] + 1)),
                    )
                )
                z += length
    return plots


def _hood(canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """The bonnet of the car that carries the camera."""
    w, h = canvas.view.width, canvas.view.height
    canvas.depth = 1.0
    top = h * float(rng.uniform(0.90, 0.93))
    paint = look.paint("hood", rng)
    arc = [(w * t, top + (h - top) * 0.75 * (2 * t - 1) ** 2) for t in np.linspace(0, 1, 17)]
    canvas.polygon([*arc, (w, h + 1), (0, h + 1)], paint)
    canvas.stroke(arc, 1.5, paint.lit(1.5))
