"""Cars, trucks, buses and trams: stacked boxes with windows, lamps and wheels."""

import math

import numpy as np

from fastass.pipelines.toycity.objects.solids import Box, Frame, Quad, box, cast_shadow, panes, part
from fastass.pipelines.toycity.rendering.canvas import Canvas, Paint
from fastass.pipelines.toycity.rendering.materials import Look

DARK = (26.0, 27.0, 30.0)
GLASS = (52.0, 66.0, 80.0)


def _decal(
    canvas: Canvas, seen: tuple[Quad, float], area: tuple[float, float, float, float], paint: Paint
) -> None:
    """Paint a part (u0, v0, u1, v1) of a visible face."""
    quad, brightness = seen
    canvas.surface(part(quad, *area), paint.lit(brightness))


def _windows(
    canvas: Canvas, seen: tuple[Quad, float], count: int, v: tuple[float, float], paint: Paint
) -> None:
    """A row of `count` windows between the heights v of a face."""
    quad, brightness = seen
    columns = [((i + 0.08) / count, (i + 0.92) / count) for i in range(count)]
    lit = paint.lit(brightness)
    panes(canvas, quad, columns, [v], lambda i, j: lit)


def _wheels(
    canvas: Canvas,
    frame: Frame,
    places: tuple[float, ...],
    half: float,
    radius: float,
    paint: Paint,
) -> None:
    """Wheels on the side that faces the camera, at the given places along the length."""
    # the side whose outward normal points to the camera
    right = (math.cos(frame.yaw), -math.sin(frame.yaw))
    dx = canvas.view.camera_x - frame.x - canvas.view.curve * frame.z**2
    toward = 1 if right[0] * dx - right[1] * frame.z > 0 else -1
    steps = [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 11)[:-1]]
    for a in places:
        tyre = [frame.world(a + radius * c, toward * half, radius + radius * s) for c, s in steps]
        canvas.surface(tyre, paint._replace(color=DARK))
        hub = [
            frame.world(a + 0.55 * radius * c, toward * half, radius + 0.55 * radius * s)
            for c, s in steps
        ]
        canvas.surface(hub, paint._replace(color=(128.0, 130.0, 134.0)))


def _plate(
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    seen: dict[str, tuple[Quad, float]],
    v: float,
) -> None:
    for name in ("rear", "front"):
        if name in seen:
            _decal(canvas, seen[name], (0.36, v, 0.64, v + 0.18), look.paint("plate", rng))


def _lamps(
    canvas: Canvas, paint: Paint, seen: dict[str, tuple[Quad, float]], v0: float, v1: float
) -> None:
    for name, color in (("rear", (190.0, 24.0, 20.0)), ("front", (240.0, 240.0, 220.0))):
        if name in seen:
            lamp = paint._replace(color=color)
            _decal(canvas, seen[name], (0.04, v0, 0.17, v1), lamp)
            _decal(canvas, seen[name], (0.83, v0, 0.96, v1), lamp)


def car(canvas: Canvas, look: Look, rng: np.random.Generator, frame: Frame) -> None:
    """A saloon, estate or van; `frame` is its rear end's middle."""
    paint = look.paint("car", rng)
    style = int(rng.integers(4))
    length = (4.4, 3.8, 4.7, 4.6)[style] * float(rng.uniform(0.95, 1.05))
    half = 0.88
    waist = (0.85, 0.88, 0.98, 1.0)[style]
    roof = (1.42, 1.5, 1.7, 1.95)[style]
    cabin = (
        (0.13, 0.74, 0.26, 0.58),
        (0.02, 0.76, 0.08, 0.58),
        (0.02, 0.76, 0.07, 0.6),
        (0.0, 0.88, 0.03, 0.72),
    )[style]
    cast_shadow(canvas, frame, Box((0, length), (-half, half), (0, 1.2)))
    box(
        canvas,
        frame,
        Box((0.15, length - 0.15), (-half + 0.08, half - 0.08), (0.05, 0.4)),
        paint._replace(color=DARK),
    )
    body = Box(
        (0, length),
        (-half, half),
        (0.28, waist),
        (0.08, length - 0.15),
        (-half + 0.04, half - 0.04),
    )
    seen = box(canvas, frame, body, paint)
    for name in ("rear", "front"):
        if name in seen:
            _decal(canvas, seen[name], (0.0, 0.0, 1.0, 0.22), paint.lit(0.55))
    for name in ("left", "right"):
        if name in seen:
            _decal(canvas, seen[name], (0.0, 0.0, 1.0, 0.14), paint.lit(0.55))
            _decal(canvas, seen[name], (0.48, 0.15, 0.49, 0.95), paint.lit(0.6))
    _lamps(canvas, paint, seen, 0.56, 0.82)
    _plate(canvas, look, rng, seen, 0.34)
    a0, a1, c0, c1 = (length * f for f in cabin)
    top = half - 0.2
    upper = Box((a0, a1), (-half + 0.06, half - 0.06), (waist, roof), (c0, c1), (-top, top))
    glass = paint._replace(color=GLASS)
    for name, face in box(canvas, frame, upper, paint).items():
        if name in ("rear", "front"):
            _decal(canvas, face, (0.08, 0.1, 0.92, 0.86), glass)
            _decal(canvas, face, (0.08, 0.5, 0.5, 0.86), glass.lit(1.35))
        elif name in ("left", "right"):
            _decal(canvas, face, (0.07, 0.08, 0.47, 0.86), glass)
            _decal(canvas, face, (0.52, 0.08, 0.93, 0.86), glass)
    _wheels(canvas, frame, (0.19 * length, 0.81 * length), half + 0.01, 0.33, paint)


def truck(canvas: Canvas, look: Look, rng: np.random.Generator, frame: Frame) -> None:
    """A lorry with a box body; `frame` is its rear end's middle."""
    paint, load = look.paint("truck", rng), look.paint("cargo", rng)
    length, half = float(rng.uniform(6.5, 9.0)), 1.22
    height = float(rng.uniform(3.0, 3.7))
    split = length - 2.1
    cast_shadow(canvas, frame, Box((0, length), (-half, half), (0, height)))

    def chassis() -> None:
        under = Box((0.2, length - 0.2), (-half + 0.2, half - 0.2), (0.25, 1.0))
        box(canvas, frame, under, paint._replace(color=DARK))

    def cab() -> None:
        shape = Box(
            (split + 0.2, length),
            (-half + 0.05, half - 0.05),
            (0.5, 2.7),
            (split + 0.2, length - 0.15),
        )
        seen = box(canvas, frame, shape, paint)
        glass = paint._replace(color=GLASS)
        if "front" in seen:
            _decal(canvas, seen["front"], (0.06, 0.5, 0.94, 0.88), glass)
            _decal(canvas, seen["front"], (0.2, 0.14, 0.8, 0.36), paint.lit(0.5))
            _lamps(canvas, paint, {"front": seen["front"]}, 0.1, 0.2)
        for name in ("left", "right"):
            if name in seen:
                _decal(canvas, seen[name], (0.25, 0.5, 0.85, 0.85), glass)

    def cargo() -> None:
        seen = box(canvas, frame, Box((0, split), (-half, half), (0.95, height)), load)
        if "rear" in seen:
            _decal(canvas, seen["rear"], (0.49, 0.02, 0.51, 0.98), load.lit(0.6))
            _decal(canvas, seen["rear"], (0.03, 0.0, 0.97, 0.05), load.lit(0.5))
            quad, brightness = seen["rear"]
            _lamps(canvas, paint, {"rear": (quad, brightness)}, -0.1, -0.03)
        for name in ("left", "right"):
            if name in seen:
                stripe = look.paint("truck", rng)
                _decal(canvas, seen[name], (0.12, 0.5, 0.88, 0.72), stripe)

    chassis()
    for draw in (cab, cargo) if math.cos(frame.yaw) > 0 else (cargo, cab):
        draw()
    _wheels(canvas, frame, (0.12 * length, 0.24 * length, length - 1.2), half, 0.5, paint)


def bus(canvas: Canvas, look: Look, rng: np.random.Generator, frame: Frame) -> None:
    """A city bus; `frame` is its rear end's middle."""
    paint = look.paint("bus", rng)
    length, half, height = 11.0, 1.27, 3.1
    cast_shadow(canvas, frame, Box((0, length), (-half, half), (0, height)))
    seen = box(canvas, frame, Box((0, length), (-half, half), (0.3, height)), paint)
    glass = paint._replace(color=GLASS)
    for name in ("left", "right"):
        if name in seen:
            _windows(canvas, seen[name], 7, (0.42, 0.82), glass)
            _decal(canvas, seen[name], (0.0, 0.0, 1.0, 0.12), paint.lit(0.5))
            _decal(canvas, seen[name], (0.0, 0.2, 1.0, 0.28), paint.lit(1.25))
    for name in ("rear", "front"):
        if name in seen:
            _decal(canvas, seen[name], (0.07, 0.42, 0.93, 0.8), glass)
            _decal(
                canvas,
                seen[name],
                (0.2, 0.84, 0.8, 0.96),
                paint._replace(color=(240.0, 170.0, 40.0)),
            )
            _decal(canvas, seen[name], (0.0, 0.0, 1.0, 0.1), paint.lit(0.5))
    _lamps(canvas, paint, seen, 0.14, 0.24)
    _wheels(canvas, frame, (2.4, length - 2.4), half + 0.01, 0.48, paint)


def tram(canvas: Canvas, look: Look, rng: np.random.Generator, frame: Frame) -> None:
    """A tram of two or three coaches; `frame` is its rear end's middle."""
    paint = look.paint("train", rng)
    half, height, coach = 1.25, 3.5, 9.5
    count = int(rng.integers(2, 4))
    away = math.cos(frame.yaw) > 0
    cast_shadow(canvas, frame, Box((0, count * coach), (-half, half), (0, height)))
    glass = paint._replace(color=GLASS)
    for i in reversed(range(count)) if away else range(count):
        a0 = i * coach
        shape = Box(
            (a0 + 0.15, a0 + coach - 0.15),
            (-half, half),
            (0.25, height),
            None,
            (-half + 0.15, half - 0.15),
        )
        seen = box(canvas, frame, shape, paint)
        for name in ("left", "right"):
            if name in seen:
                _windows(canvas, seen[name], 5, (0.45, 0.82), glass)
                _decal(canvas, seen[name], (0.0, 0.0, 1.0, 0.1), paint._replace(color=DARK))
                _decal(canvas, seen[name], (0.0, 0.2, 1.0, 0.3), paint.lit(0.7))
                _decal(canvas, seen[name], (0.41, 0.12, 0.59, 0.84), paint.lit(0.6))
        for name in ("rear", "front"):
            if name in seen:
                _decal(canvas, seen[name], (0.1, 0.45, 0.9, 0.8), glass)
                _decal(
                    canvas,
                    seen[name],
                    (0.3, 0.84, 0.7, 0.95),
                    paint._replace(color=(250.0, 200.0, 80.0)),
                )
                _decal(canvas, seen[name], (0.0, 0.0, 1.0, 0.08), paint._replace(color=DARK))
                _lamps(canvas, paint, {name: seen[name]}, 0.14, 0.24)
