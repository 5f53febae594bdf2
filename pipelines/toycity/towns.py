"""How the streets of the two domains are laid out: the label shift between them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """How the streets of a domain are laid out. Ranges are uniform; lengths in metres.

    focal: in picture widths; horizon: in picture heights from the top; parked, moving, people,
    trees: densities between 0 and 1 or counts; kinds: odds of house, wall, fence, park.
    """

    camera_y: tuple[float, float]
    focal: tuple[float, float]
    horizon: tuple[float, float]
    lanes: tuple[int, ...]
    lane: tuple[float, float]
    walk: tuple[float, float]
    verge: float
    shoulder: float
    curve: float
    storeys: tuple[int, int]
    kinds: tuple[float, float, float, float]
    parked: float
    moving: float
    people: tuple[int, int]
    trees: float
    crossing: float
    hood: float


GAME = Statistics(
    camera_y=(1.5, 2.3),
    focal=(0.80, 1.0),
    horizon=(0.40, 0.50),
    lanes=(2, 4, 4, 4),
    lane=(3.3, 3.9),
    walk=(3.0, 5.5),
    verge=0.40,
    shoulder=0.6,
    curve=0.0012,
    storeys=(1, 9),
    kinds=(0.60, 0.12, 0.10, 0.18),
    parked=0.30,
    moving=0.55,
    people=(3, 14),
    trees=0.35,
    crossing=0.55,
    hood=0.15,
)

TOWN = Statistics(
    camera_y=(1.2, 1.4),
    focal=(1.02, 1.12),
    horizon=(0.44, 0.48),
    lanes=(2, 2, 2, 3),
    lane=(3.0, 3.5),
    walk=(2.6, 4.4),
    verge=0.45,
    shoulder=1.6,
    curve=0.0025,
    storeys=(2, 5),
    kinds=(0.58, 0.09, 0.11, 0.22),
    parked=0.42,
    moving=0.32,
    people=(4, 16),
    trees=0.60,
    crossing=0.45,
    hood=1.0,
)
