"""What an all-reduce costs, by the α–β model: a message of n bytes takes α + n·β on a link.

    ring   2(p−1)·α + 2(p−1)/p·n·β      reduce-scatter and all-gather (Patarasuk and Yuan 2009)
    tree   2⌈log₂ p⌉·α + 2·n·β          two pipelined binary trees (Sanders et al. 2009)

p ranks, n bytes on each. A ring moves the least bytes, a tree has the fewest steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Link:
    """What connects two ranks."""

    alpha: float
    """Seconds until a message arrives."""
    beta: float
    """Seconds per byte, in one direction."""


AllReduce = Callable[[float, int, Link], float]  # bytes, ranks, link → seconds


def ring(size: float, ranks: int, link: Link) -> float:
    """Seconds of a ring all-reduce of `size` bytes."""
    return _ring_steps(ranks) * link.alpha + _ring_bytes(size, ranks) * link.beta


def tree(size: float, ranks: int, link: Link) -> float:
    """Seconds of an all-reduce over two pipelined binary trees of `size` bytes."""
    if ranks == 1:
        return 0.0
    return 2 * math.ceil(math.log2(ranks)) * link.alpha + 2 * size * link.beta


ALGORITHMS: dict[str, AllReduce] = {"ring": ring, "tree": tree}


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs, each GPU with a network card of its own."""

    gpus_per_node: int
    intra: Link
    inter: Link

    def nodes(self, gpus: int) -> int:
        return math.ceil(gpus / self.gpus_per_node)

    def all_reduce(self, size: float, gpus: int, algorithm: AllReduce) -> float:
        """Seconds: a ring in each node leaves each GPU a part, which is exchanged between nodes.

        The ring's reduce-scatter comes before, its all-gather after the exchange between the
        nodes, in which each GPU takes part with 1/g of the bytes. The three follow one another.
        """
        g = min(gpus, self.gpus_per_node)
        return ring(size, g, self.intra) + algorithm(size / g, self.nodes(gpus), self.inter)


def fit(samples: Sequence[tuple[int, float]], ranks: int) -> tuple[Link, float]:
    """The link whose ring comes closest to measured (bytes, seconds), and its typical error.

    Least squares of the relative error, so that small messages count as much as large ones; the
    error is the median of |predicted / measured − 1|. `ranks` is at least 2.
    """
    seconds = np.array([t for _, t in samples])
    terms = np.array([[_ring_steps(ranks), _ring_bytes(n, ranks)] for n, _ in samples])
    scaled = terms / seconds[:, None]
    # Neither may be negative: where the best pair is, one of them is 0.
    pairs = [np.linalg.lstsq(scaled, np.ones(len(samples)), rcond=None)[0]]
    for i in (0, 1):
        alone = np.zeros(2)
        alone[i] = scaled[:, i].sum() / (scaled[:, i] ** 2).sum()
        pairs.append(alone)
    possible = [pair for pair in pairs if (pair >= 0).all()]
    best = min(possible, key=lambda pair: float(((scaled @ pair - 1) ** 2).sum()))
    error = float(np.median(np.abs(scaled @ best - 1)))
    return Link(float(best[0]), float(best[1])), error


def _ring_steps(ranks: int) -> int:
    return 2 * (ranks - 1)


def _ring_bytes(size: float, ranks: int) -> float:
    return 2 * (ranks - 1) / ranks * size
