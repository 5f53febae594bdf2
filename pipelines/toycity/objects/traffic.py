"""Everything that stands or moves on the carriageway and the pavements."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from fastass.pipelines.toycity.objects.furniture import clutter, lamp_post, sign_post, traffic_light
from fastass.pipelines.toycity.objects.greenery import tree
from fastass.pipelines.toycity.objects.people import bicycle, motorcycle, pedestrian
from fastass.pipelines.toycity.objects.solids import Frame
from fastass.pipelines.toycity.objects.street import Street
from fastass.pipelines.toycity.objects.vehicles import bus, car, tram, truck
from fastass.pipelines.toycity.rendering.canvas import Canvas
from fastass.pipelines.toycity.rendering.materials import Look
from fastass.pipelines.toycity.towns import Statistics


class Traffic:
    """Things with a place each; `place` chooses them and `draw` paints them by depth."""

    def __init__(
        self, canvas: Canvas, look: Look, s: Statistics, street: Street, rng: np.random.Generator
    ) -> None:
        self.canvas, self.look, self.s, self.street, self.rng = canvas, look, s, street, rng
        self._queue: list[tuple[float, Callable[[], None]]] = []
        self._taken: list[tuple[float, float, float]] = []  # x, z0, z1 on the carriageway

    def add(self, z: float, draw: Callable[[], None]) -> None:
        self._queue.append((z, draw))

    def draw(self) -> None:
        """Far to near; each thing is an instance of its own."""
        for i, (z, draw) in enumerate(sorted(self._queue, key=lambda item: -item[0])):
            self.canvas.depth, self.canvas.instance = z, i + 1
            draw()

    def free(self, x: float, z0: float, z1: float) -> bool:
        """Claim a place on the carriageway, if nothing is there."""
        if any(abs(x - t[0]) < 2.2 and z0 < t[2] and t[1] < z1 for t in self._taken):
            return False
        self._taken.append((x, z0 - 1.5, z1 + 1.5))
        return True

    def vehicle(self, kind: str, x: float, z: float, oncoming: bool, yaw: float = 0.0) -> None:
        """Put a vehicle whose nearest end is at z; nothing if the place is taken."""
        draw, length = {
            "car": (car, 4.8),
            "truck": (truck, 9.0),
            "bus": (bus, 11.0),
            "tram": (tram, 28.5),
        }[kind]
        if not self.free(x, z, z + length):
            return
        actual = {"car": 4.4, "truck": 8.0, "bus": 11.0, "tram": 19.0}[kind]
        frame = Frame(x, z + actual, math.pi + yaw) if oncoming else Frame(x, z, yaw)
        self.add(z, partial(draw, self.canvas, self.look, self.rng, frame))

    def place(self, rare: str, lane: float) -> None:
        """Choose positions for all."""
        rng, street = self.rng, self.street
        lefts = [-(i + 0.5) * lane for i in range(street.lanes // 2)]
        rights = [(i + 0.5) * lane for i in range(street.lanes - street.lanes // 2)]
        if rare == "tram" and street.rails is not None:
            self.vehicle("tram", street.rails, float(rng.uniform(9, 26)), bool(rng.random() < 0.5))
        elif rare in ("bus", "truck"):
            oncoming = bool(rng.random() < 0.6)
            x = float(rng.choice(lefts if oncoming else rights))
            self.vehicle(
                rare, x, float(rng.uniform(9, 24) if oncoming else rng.uniform(13, 30)), oncoming
            )
        elif rare:
            self._cyclists(rare)
        self._traffic(lefts, rights)
        self._parked()
        for side in (-1, 1):
            self._pavement(side)
        self._pedestrians()

    def _cyclists(self, rare: str) -> None:
        rng, street = self.rng, self.street
        draw = motorcycle if rare == "motorcycle" else bicycle
        for _ in range(int(rng.integers(1, 3))):
            z = float(rng.uniform(6.5, 20))
            x = float(rng.uniform(street.left * 0.6, street.right - 1.5))
            across = bool(rng.random() < 0.35)
            yaw = float(rng.choice([-1.0, 1.0])) * 1.4 if across else math.pi * int(x < 0)
            frame = Frame(x, z, yaw + float(rng.normal(0, 0.25)))
            if self.free(x, z - 1, z + 1):
                self.add(z, partial(draw, self.canvas, self.look, rng, frame, True))

    def _traffic(self, lefts: list[float], rights: list[float]) -> None:
        rng = self.rng
        for x, oncoming in [(x, True) for x in lefts] + [(x, False) for x in rights]:
            z = float(rng.uniform(7, 20)) if oncoming else float(rng.uniform(10, 30))
            while z < 90:
                if rng.random() < self.s.moving:
                    self.vehicle("car", x + float(rng.normal(0, 0.2)), z, oncoming)
                z += float(rng.uniform(9, 28))
        if self.street.cross and rng.random() < 0.5:
            z = sum(self.street.cross) / 2
            x, yaw = float(rng.uniform(-14, 10)), math.pi / 2
            if self.free(x + 2.2, z - 1.5, z + 1.5):
                frame = Frame(x, z, yaw)
                self.add(z - 1, partial(car, self.canvas, self.look, rng, frame))

    def _parked(self) -> None:
        rng, street = self.rng, self.street
        for side in (-1, 1):
            x = street.edge(side) - side * 1.05
            for z0, z1 in street.stretches():
                z = max(z0, 3.5) + float(rng.uniform(0, 9))
                while z < min(z1 - 11, 90):
                    if rng.random() < self.s.parked:
                        self.vehicle("car", x, z, side < 0 or rng.random() < 0.15)
                    z += float(rng.uniform(5.4, 7.5))

    def _pavement(self, side: int) -> None:
        """Lamps, signals, signs, trees, parked bicycles and bins along one kerb."""
        rng, street = self.rng, self.street
        canvas, look = self.canvas, self.look
        near = street.edge(side) + side * 0.6
        z = float(rng.uniform(6, 18))
        while z < 90:
            self.add(z, partial(lamp_post, canvas, look, rng, near, z, side))
            z += float(rng.uniform(16, 30))
        if rng.random() < self.s.trees:
            z = float(rng.uniform(5, 14))
            while z < 100:
                if not street.cross or not street.cross[0] - 3 < z < street.cross[1] + 3:
                    self.add(z, partial(tree, canvas, look, rng, near + side * 0.3, z, 0.8))
                z += float(rng.uniform(8, 15))
        for _ in range(int(rng.integers(0, 3))):
            z = float(rng.uniform(7, 32))
            self.add(z, partial(sign_post, canvas, look, rng, near, z))
        if street.cross:
            for z in (street.cross[0] - 1.5, street.cross[1] + 1.5):
                if rng.random() < 0.7:
                    self.add(z, partial(traffic_light, canvas, look, rng, near, z, side))
        for _ in range(int(rng.integers(0, 3))):
            z = float(rng.uniform(5, 30))
            x = street.outside(side) - side * 0.5
            self.add(z, partial(clutter, canvas, look, rng, x, z))
        if rng.random() < 0.45:
            z = float(rng.uniform(5.5, 24))
            turn = float(rng.uniform(0.3, 1.3)) * side
            for i in range(int(rng.integers(1, 5))):
                frame = Frame(street.outside(side) - side * 0.9, z + 0.7 * i, turn)
                self.add(frame.z, partial(bicycle, canvas, look, rng, frame, False))
        if rng.random() < 0.05:
            frame = Frame(street.edge(side) - side * 0.8, float(rng.uniform(7, 18)), 0.8 * side)
            if self.free(frame.x, frame.z - 1, frame.z + 1):
                self.add(frame.z, partial(motorcycle, canvas, look, rng, frame, False))

    def _pedestrians(self) -> None:
        rng, street = self.rng, self.street
        for _ in range(int(rng.integers(self.s.people[0], self.s.people[1] + 1))):
            side = 1 if rng.random() < 0.5 else -1
            z = 5.5 + float(rng.exponential(11))
            room = abs(street.outside(side) - street.edge(side)) - 0.7
            x = street.edge(side) + side * (0.4 + room * float(rng.random()))
            if street.cross and rng.random() < 0.25:
                x, z = float(rng.uniform(street.left, street.right)), street.cross[0] - 2.5
                if not self.free(x, z - 0.4, z + 0.4):
                    continue
            self.add(z, partial(pedestrian, self.canvas, self.look, rng, x, z))
