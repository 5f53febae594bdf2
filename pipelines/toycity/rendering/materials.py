"""What each material looks like in the rendered and in the camera domain.

The two tables differ class by class and in different directions: the road turns from cool to warm
and the pavement from warm to cool, trees go olive and grass takes their green, garden walls take
the tone of the source's brick houses, trams that of its buses. No one colour transform of the whole
image undoes this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from fastass.pipelines.toycity.rendering.canvas import Paint

# Tiles of `render.noise_tiles`.
GRAIN, LEAVES, STAINS, BRICKS, PLANKS, PAVING, CLOUDS = range(7)


@dataclass(frozen=True)
class Material:
    """label: raw id; colors: bases to choose from (RGB); jitter: relative spread of one choice.

    texture: (tile, relative amplitude, tile pixels per metre); ground: lies flat.
    """

    label: int
    colors: tuple[tuple[int, int, int], ...]
    jitter: float
    texture: tuple[int, float, float]
    ground: bool = False


class Look:
    """The materials of one domain, by name."""

    def __init__(self, materials: Mapping[str, Material]) -> None:
        self.names = tuple(materials)
        self._materials = dict(materials)
        self._index = {name: i for i, name in enumerate(self.names)}
        rows = list(materials.values())
        self.tile = np.array([m.texture[0] for m in rows], np.uint8)
        self.amplitude = np.array([m.texture[1] for m in rows], np.float32)
        self.frequency = np.array([m.texture[2] for m in rows], np.float32)
        self.ground = np.array([m.ground for m in rows])

    def index(self, name: str) -> int:
        """The number of a material."""
        return self._index[name]

    def paint(self, name: str, rng: np.random.Generator) -> Paint:
        """A material in one of its colours."""
        material = self._materials[name]
        r, g, b = material.colors[int(rng.integers(len(material.colors)))]
        i, j, k, all_ = rng.standard_normal(4).tolist()
        spread = material.jitter
        tone = 1 + spread * all_
        color = (
            r * tone * (1 + 0.5 * spread * i),
            g * tone * (1 + 0.3 * spread * j),
            b * tone * (1 + 0.5 * spread * k),
        )
        return Paint(material.label, self._index[name], color)

    def toward(self, other: "Look", share: float) -> "Look":
        """Materials on the way to those of `other`: 0 is this look, 1 the other."""
        if share == 1:
            return other
        mixed = {n: _mixed(m, other._materials[n], share) for n, m in self._materials.items()}
        return Look(mixed)


def _mixed(a: Material, b: Material, share: float) -> Material:
    def mix(x: float, y: float) -> float:
        return x + share * (y - x)

    count = max(len(a.colors), len(b.colors))
    pairs = zip(islice(cycle(a.colors), count), islice(cycle(b.colors), count), strict=True)
    colors = tuple(tuple(round(mix(x, y)) for x, y in zip(p, q, strict=True)) for p, q in pairs)
    (tile_a, *sizes_a), (tile_b, *sizes_b) = a.texture, b.texture
    amplitude, frequency = (mix(x, y) for x, y in zip(sizes_a, sizes_b, strict=True))
    texture = (tile_b if share >= 0.5 else tile_a, amplitude, frequency)
    return Material(a.label, colors, mix(a.jitter, b.jitter), texture, a.ground)  # type: ignore[arg-type]


# name: (label, ground)
_KINDS = {
    "sky": (23, False),
    "road": (7, True),
    "marking": (7, True),
    "patch": (7, True),
    "rails": (10, True),
    "parking": (9, True),
    "ground": (6, True),
    "sidewalk": (8, True),
    "kerb": (8, True),
    "terrain": (22, True),
    "building": (11, False),
    "window": (11, False),
    "roof": (11, False),
    "shop": (11, False),
    "wall": (12, False),
    "fence": (13, False),
    "pole": (17, False),
    "light": (19, False),
    "lamp red": (19, False),
    "lamp green": (19, False),
    "sign": (20, False),
    "sign face": (20, False),
    "leaves": (21, False),
    "trunk": (21, False),
    "skin": (24, False),
    "hair": (24, False),
    "shirt": (24, False),
    "trousers": (24, False),
    "car": (26, False),
    "truck": (27, False),
    "cargo": (27, False),
    "bus": (28, False),
    "train": (31, False),
    "motorcycle": (32, False),
    "bicycle": (33, False),
    "static": (4, False),
    "dynamic": (5, False),
    "plate": (34, False),
    "hood": (1, False),
}


def _look(rows: Mapping[str, tuple[str, float, tuple[int, float, float]]]) -> Look:
    """Rows: name → (colours in hex, jitter, texture)."""
    table = {}
    for name, (label, ground) in _KINDS.items():
        colors, jitter, texture = rows[name]
        rgb = tuple(tuple(bytes.fromhex(c)) for c in colors.split())
        table[name] = Material(label, rgb, jitter, texture, ground)  # type: ignore[arg-type]
    return Look(table)


RENDERED = _look(
    {
        "sky": ("4a92ee 5aa0f0 3c82e2 88b4e8 b0c4da", 0.04, (CLOUDS, 0.10, 0)),
        "road": ("5c6474 545c6e 646c7a", 0.05, (GRAIN, 0.05, 40)),
        "marking": ("f4f4ea", 0.03, (GRAIN, 0.02, 40)),
        "patch": ("4c5464 6a7282", 0.05, (GRAIN, 0.05, 40)),
        "rails": ("7a6a5a", 0.05, (GRAIN, 0.12, 40)),
        "parking": ("707684", 0.05, (PAVING, 0.06, 24)),
        "ground": ("a89c88", 0.06, (PAVING, 0.05, 16)),
        "sidewalk": ("c6b49a bcac9a ccbca8", 0.05, (PAVING, 0.07, 24)),
        "kerb": ("dcd2c2", 0.03, (GRAIN, 0.02, 40)),
        "terrain": ("b0be54 a4b44c bcc060", 0.06, (GRAIN, 0.10, 20)),
        "building": ("ca6450 e8c47c dedcd4 7a9cc4 b87c9a e09458 8cb48c", 0.08, (BRICKS, 0.04, 20)),
        "window": ("3c6aa0 4c7cb4 2c5280", 0.08, (GRAIN, 0.02, 10)),
        "roof": ("a04434 60606c", 0.08, (PLANKS, 0.06, 20)),
        "shop": ("24486c 1e3a30 7c2430", 0.1, (GRAIN, 0.02, 10)),
        "wall": ("a8a8b2 9ea0ac b4b4ba", 0.05, (BRICKS, 0.10, 36)),
        "fence": ("7c5030 8c5c38 74706c", 0.08, (PLANKS, 0.10, 40)),
        "pole": ("484c54 3c4048", 0.06, (GRAIN, 0.02, 30)),
        "light": ("f0be28 e0b020 40423c", 0.04, (GRAIN, 0.02, 30)),
        "lamp red": ("ff2818", 0, (GRAIN, 0, 30)),
        "lamp green": ("28f078", 0, (GRAIN, 0, 30)),
        "sign": ("e02020 1a50d8 f0f0f0", 0.04, (GRAIN, 0.01, 30)),
        "sign face": ("f8f8f8 f8d820", 0.02, (GRAIN, 0.01, 30)),
        "leaves": ("2e8c30 46a032 267840 58a83a 6c9838", 0.10, (LEAVES, 0.22, 30)),
        "trunk": ("5c402c 6c4c34", 0.08, (PLANKS, 0.10, 40)),
        "skin": ("f0c4a0 c08c64 7c5238", 0.05, (GRAIN, 0.01, 30)),
        "hair": ("2c1c10 5c3c1c c89c50", 0.1, (GRAIN, 0.01, 30)),
        "shirt": ("e83c3c f0f0f0 3c78e8 f0c828 30b078 c048b8", 0.10, (GRAIN, 0.03, 30)),
        "trousers": ("28345c 5c4430 303030 7888a8", 0.10, (GRAIN, 0.03, 30)),
        "car": ("d02020 1e50c8 f0f0f0 f0c01e 181a20 1e9c5c a4a8ac 585c64", 0.08, (GRAIN, 0.01, 10)),
        "truck": ("d83c28 2858c0 f0f0f0", 0.06, (GRAIN, 0.01, 10)),
        "cargo": ("f0f0ec e4e4e0", 0.03, (PLANKS, 0.03, 12)),
        "bus": ("f4b81e eca814", 0.04, (GRAIN, 0.01, 10)),
        "train": ("b4c0cc a8b8c8", 0.04, (PLANKS, 0.03, 12)),
        "motorcycle": ("a81818 1c1c24", 0.08, (GRAIN, 0.03, 30)),
        "bicycle": ("18b0b0 e04890 f0f0f0", 0.08, (GRAIN, 0.02, 30)),
        "static": ("4c7058 80706c", 0.10, (GRAIN, 0.03, 30)),
        "dynamic": ("707880 c0a080", 0.10, (GRAIN, 0.03, 30)),
        "plate": ("f4f4f0", 0.02, (GRAIN, 0.01, 30)),
        "hood": ("30343c 802020", 0.1, (GRAIN, 0.01, 10)),
    }
)

PHOTOGRAPHED = _look(
    {
        "sky": ("b4c4d8 c2ccd6 a4bcdc d0d4d6", 0.03, (CLOUDS, 0.05, 0)),
        "road": ("7c766e 72757a 847c72 6a6c70", 0.05, (STAINS, 0.05, 12)),
        "marking": ("ccc8be", 0.06, (STAINS, 0.10, 30)),
        "patch": ("6a6662 86827c", 0.05, (STAINS, 0.05, 12)),
        "rails": ("6c6864", 0.05, (GRAIN, 0.10, 40)),
        "parking": ("847c78", 0.05, (PAVING, 0.10, 40)),
        "ground": ("847e78", 0.06, (PAVING, 0.08, 24)),
        "sidewalk": ("9496a4 a09a94 9c9aa6 8a8c9c", 0.06, (PAVING, 0.12, 40)),
        "kerb": ("a8a8ac", 0.05, (GRAIN, 0.06, 40)),
        "terrain": ("5c7c46 648248 567444", 0.08, (LEAVES, 0.14, 30)),
        "building": ("9a968e aca294 7e7e82 b4aca4 8c7c74 a09a8a", 0.08, (STAINS, 0.08, 12)),
        "window": ("3a3c3e 484c50 5c6468", 0.12, (GRAIN, 0.08, 10)),
        "roof": ("544844 484a4e", 0.08, (BRICKS, 0.10, 30)),
        "shop": ("2c2a28 4c4038 30383c", 0.12, (GRAIN, 0.06, 10)),
        "wall": ("8c5844 7c5040 946450", 0.07, (BRICKS, 0.18, 40)),
        "fence": ("8c9498 7c8488 5c6a64", 0.07, (GRAIN, 0.08, 40)),
        "pole": ("807c70 70746c 6c6258", 0.07, (STAINS, 0.06, 20)),
        "light": ("20221f 282c28", 0.08, (GRAIN, 0.04, 30)),
        "lamp red": ("e84830", 0.04, (GRAIN, 0, 30)),
        "lamp green": ("50d0a0", 0.04, (GRAIN, 0, 30)),
        "sign": ("a83434 34549c d4d2cc 8c9090", 0.08, (STAINS, 0.06, 30)),
        "sign face": ("d4d2ca c8b048", 0.06, (STAINS, 0.06, 30)),
        "leaves": ("646c36 706c36 566438 7c6e3a", 0.10, (LEAVES, 0.26, 38)),
        "trunk": ("4c4840 5c5850", 0.08, (GRAIN, 0.14, 40)),
        "skin": ("c49c84 94705c 644838", 0.08, (GRAIN, 0.05, 30)),
        "hair": ("241e1a 443830 786450", 0.1, (GRAIN, 0.06, 30)),
        "shirt": ("2a2c34 3c4450 5c3c3c 74706c 2c4038 a8a49c", 0.14, (STAINS, 0.12, 40)),
        "trousers": ("20242c 343438 4a5060", 0.12, (STAINS, 0.10, 40)),
        "car": ("b4b8ba 2c2e32 6c7076 d0d0cc 34445c 6c2c2c", 0.08, (STAINS, 0.05, 10)),
        "truck": ("3c6450 50688c 8c8478", 0.08, (STAINS, 0.06, 10)),
        "cargo": ("4c6c64 5c7090 8c8c84", 0.10, (STAINS, 0.10, 12)),
        "bus": ("98303a 8c2c34", 0.06, (STAINS, 0.05, 10)),
        "train": ("d0b468 c8aa5c", 0.05, (STAINS, 0.05, 12)),
        "motorcycle": ("28282a 48484c 2c3850", 0.10, (GRAIN, 0.08, 30)),
        "bicycle": ("30343a 58585c 3c4c3c", 0.10, (GRAIN, 0.06, 30)),
        "static": ("606462 484440", 0.10, (STAINS, 0.10, 30)),
        "dynamic": ("505458 847868", 0.10, (STAINS, 0.10, 30)),
        "plate": ("d8d8d0", 0.04, (GRAIN, 0.04, 30)),
        "hood": ("3c4044 202224", 0.08, (GRAIN, 0.01, 10)),
    }
)
