"""Pedestrians, bicycles, motorcycles and their riders."""

import math

import numpy as np

from fastass.pipelines.toycity.objects.solids import Frame
from fastass.pipelines.toycity.rendering.canvas import Canvas, Paint, Point2
from fastass.pipelines.toycity.rendering.materials import Look

RIDER = 25
TYRE = (30.0, 30.0, 32.0)


class Figure:
    """Flat shapes in metres at one place, facing the camera."""

    def __init__(self, canvas: Canvas, x: float, z: float) -> None:
        self.canvas = canvas
        self.scale = canvas.view.focal / z
        ((self.u, self.v),) = canvas.view.project([(x, 0.0, z)])

    def shape(self, points: list[Point2], paint: Paint) -> None:
        """A polygon of (metres right, metres up)."""
        flat = [(self.u + dx * self.scale, self.v - y * self.scale) for dx, y in points]
        self.canvas.polygon(flat, paint)

    def limb(self, points: list[Point2], width: float, paint: Paint) -> None:
        """A thick line through (metres right, metres up)."""
        flat = [(self.u + dx * self.scale, self.v - y * self.scale) for dx, y in points]
        self.canvas.stroke(flat, width * self.scale, paint)

    def disc(self, dx: float, y: float, radius: float, paint: Paint) -> None:
        """A filled circle."""
        r = radius * self.scale
        self.canvas.disc(self.u + dx * self.scale, self.v - y * self.scale, r, r, paint)


def pedestrian(canvas: Canvas, look: Look, rng: np.random.Generator, x: float, z: float) -> None:
    """A standing or walking person at (x, z)."""
    k = float(rng.uniform(0.9, 1.06)) if rng.random() < 0.85 else float(rng.uniform(0.6, 0.75))
    skin, hair = look.paint("skin", rng), look.paint("hair", rng)
    shirt, trousers = look.paint("shirt", rng), look.paint("trousers", rng)
    stride = float(rng.uniform(0.02, 0.26)) * k
    turn = float(rng.uniform(0.7, 1.0))  # shoulders seen from the side are narrower
    figure = Figure(canvas, x, z)
    shadow(canvas, x, z, 0.25, 1.7 * k)
    for side, lit in ((-1, 0.8), (1, 1.0)):
        hip, foot = (side * 0.08 * k, 0.86 * k), (side * stride, 0.05)
        knee = ((hip[0] + foot[0]) / 2 + 0.04, 0.45 * k)
        figure.limb([hip, knee, foot], 0.15 * k, trousers.lit(lit))
        figure.limb([foot, (foot[0] + 0.12, 0.04)], 0.09, trousers._replace(color=TYRE))
    w = 0.23 * k * turn
    figure.shape(
        [
            (-w * 0.8, 0.8 * k),
            (w * 0.8, 0.8 * k),
            (w, 1.4 * k),
            (w * 0.5, 1.48 * k),
            (-w * 0.5, 1.48 * k),
            (-w, 1.4 * k),
        ],
        shirt,
    )
    for side, lit in ((-1, 0.75), (1, 0.9)):
        hand = (side * (w + 0.05) + float(rng.uniform(-0.1, 0.1)), 0.82 * k)
        figure.limb(
            [(side * w, 1.38 * k), (side * (w + 0.06), 1.1 * k), hand], 0.1 * k, shirt.lit(lit)
        )
        figure.disc(*hand, 0.05 * k, skin)
    figure.disc(0, 1.6 * k, 0.13 * k, hair)
    figure.disc(0.03 * k, 1.57 * k, 0.105 * k, skin)
    if rng.random() < 0.25:
        figure.shape(
            [(w, 0.75 * k), (w + 0.2, 0.75 * k), (w + 0.2, 1.1 * k), (w, 1.1 * k)], trousers
        )


def shadow(canvas: Canvas, x: float, z: float, radius: float, height: float) -> None:
    """The shadow of an upright thing."""
    reach = height / max(canvas.sun[1], 0.2)
    dx, dz = -canvas.sun[0] * reach, -canvas.sun[2] * reach
    r = radius
    canvas.shadow([(x - r, 0, z - r), (x + r, 0, z - r), (x + r, 0, z + r), (x - r, 0, z + r)])
    canvas.shadow([(x - r, 0, z), (x + r, 0, z), (x + dx + r, 0, z + dz), (x + dx - r, 0, z + dz)])


def _stroke(canvas: Canvas, frame: Frame, points: list[Point2], width: float, paint: Paint) -> None:
    """A bar through (a, y) in the frame's own long plane."""
    world = [frame.world(a, 0, y) for a, y in points]
    z = max(1.0, min(p[2] for p in world))
    canvas.stroke(canvas.view.project(world), width * canvas.view.focal / z, paint)


def _wheel(
    canvas: Canvas, frame: Frame, a: float, radius: float, width: float, paint: Paint, fill: Paint
) -> None:
    steps = np.linspace(0, 2 * math.pi, 13)
    ring = [(a + radius * math.cos(t), radius + radius * math.sin(t)) for t in steps]
    canvas.surface([frame.world(p, 0, q) for p, q in ring], fill)
    _stroke(canvas, frame, ring, width, paint)


def bicycle(
    canvas: Canvas, look: Look, rng: np.random.Generator, frame: Frame, ridden: bool
) -> None:
    """A bicycle 1.75 m long, maybe with a rider; `frame` is its middle."""
    paint = look.paint("bicycle", rng)
    tyre = paint._replace(color=TYRE)
    spokes = paint._replace(color=(120.0, 120.0, 118.0))
    shadow(canvas, frame.x, frame.z, 0.4, 1.0)
    for a in (-0.52, 0.52):
        _wheel(canvas, frame, a, 0.35, 0.06, tyre, spokes)
    for bar in (
        [(-0.52, 0.35), (-0.2, 0.85), (0.42, 0.85), (0.0, 0.35), (-0.52, 0.35)],
        [(0.52, 0.35), (0.4, 1.0)],
    ):
        _stroke(canvas, frame, bar, 0.07, paint)
    _stroke(canvas, frame, [(-0.32, 0.93), (-0.08, 0.93)], 0.09, tyre)
    handle = [frame.world(0.42, b, 1.0) for b in (-0.28, 0.28)]
    canvas.stroke(canvas.view.project(handle), 0.06 * canvas.view.focal / frame.z, tyre)
    if ridden:
        _rider(canvas, look, rng, frame, 0.9)


def motorcycle(
    canvas: Canvas, look: Look, rng: np.random.Generator, frame: Frame, ridden: bool
) -> None:
    """A motorcycle 2.1 m long, maybe with a rider; `frame` is its middle."""
    paint = look.paint("motorcycle", rng)
    tyre = paint._replace(color=TYRE)
    steel = paint._replace(color=(120.0, 120.0, 122.0))
    shadow(canvas, frame.x, frame.z, 0.5, 1.0)
    for a in (-0.72, 0.72):
        _wheel(canvas, frame, a, 0.32, 0.2, tyre, steel)
    _stroke(canvas, frame, [(-0.72, 0.34), (0.1, 0.4), (0.72, 0.34), (0.5, 1.0)], 0.14, steel)
    _stroke(canvas, frame, [(-0.95, 0.75), (-0.4, 0.72), (0.05, 0.72)], 0.26, tyre)
    _stroke(canvas, frame, [(-0.35, 0.5), (0.3, 0.52), (0.45, 0.8)], 0.42, paint)
    _stroke(canvas, frame, [(0.0, 0.84), (0.42, 0.88)], 0.3, paint.lit(1.15))
    handle = [frame.world(0.5, b, 1.05) for b in (-0.38, 0.38)]
    canvas.stroke(canvas.view.project(handle), 0.08 * canvas.view.focal / frame.z, steel)
    rear = Figure(canvas, *_flat(frame, -1.0 if math.cos(frame.yaw) > 0 else 1.0))
    lamp = (200.0, 30.0, 24.0) if math.cos(frame.yaw) > 0 else (250.0, 246.0, 220.0)
    rear.disc(0, 0.82, 0.09, paint._replace(color=lamp))
    if ridden:
        _rider(canvas, look, rng, frame, 0.8)


def _flat(frame: Frame, a: float) -> tuple[float, float]:
    x, _, z = frame.world(a, 0, 0)
    return x, z


def _rider(canvas: Canvas, look: Look, rng: np.random.Generator, frame: Frame, seat: float) -> None:
    """A rider on a saddle at height `seat`: a billboard, leaning forward if seen from the side."""
    shirt = look.paint("shirt", rng)._replace(label=RIDER)
    trousers = look.paint("trousers", rng)._replace(label=RIDER)
    skin = look.paint("skin", rng)._replace(label=RIDER)
    helmet = look.paint("shirt", rng)._replace(label=RIDER)
    ahead = math.sin(frame.yaw)  # how much of the length shows, and to which side
    width = 0.24 - 0.08 * abs(ahead)
    figure = Figure(canvas, *_flat(frame, -0.2))
    for side in (-1, 1):
        spread = side * 0.13 * (1 - abs(ahead))
        knee = (spread * 1.3 + 0.38 * ahead, seat - 0.2 + 0.12 * side * abs(ahead))
        figure.limb(
            [(spread * 0.5, seat + 0.05), knee, (spread + 0.18 * ahead, 0.3)], 0.16, trousers
        )
    lean = 0.3 * ahead
    figure.shape(
        [
            (-width * 0.8, seat),
            (width * 0.8, seat),
            (lean + width, seat + 0.5),
            (lean + width * 0.4, seat + 0.6),
            (lean - width * 0.4, seat + 0.6),
            (lean - width, seat + 0.5),
        ],
        shirt,
    )
    for side in (-1, 1):
        shoulder = (lean + side * width, seat + 0.5)
        hand = (0.6 * ahead + side * 0.3 * (1 - abs(ahead)), seat + 0.12)
        figure.limb([shoulder, hand], 0.11, shirt.lit(0.85))
    figure.disc(lean + 0.06 * ahead, seat + 0.72, 0.12, skin)
    figure.disc(lean + 0.04 * ahead, seat + 0.77, 0.13, helmet)
