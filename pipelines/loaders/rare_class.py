"""Rare-class sampling: samples with rare classes are drawn more often.

As in DAFormer (Hoyer, Dai and Van Gool, CVPR 2022, section 3.3), written from its formula: class c
is drawn with probability

    P(c) = exp((1 − f_c) / T) / Σ_k exp((1 − f_k) / T)        over the classes that occur

with f_c, the class's share of all pixels that are not ignored, and the temperature T; then a sample
that contains c is drawn, all of them alike. The smaller T, the rarer the classes that are drawn.
A sample contains a class if the class has at least `MIN_SHARE` of the pixels of its label; of a
class that reaches that in no sample, each sample with a pixel of it counts. (DAFormer asks for 3000
pixels of 1914×1052, which is 0.15 %.)

A position of a stream is drawn independently of all others, with replacement: there are no epochs.
The draw is a pure function of (seed, stream, position), as the order without it is.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastass.pipelines.loaders.order import key

MIN_SHARE = 0.001
_BITS = 32  # of the thresholds: whole numbers, so that the last bit of exp() decides nothing


@dataclass(frozen=True)
class RareClassOrder:
    """Which sample comes at which position.

    classes: numbers of the classes that occur. thresholds: cumulative P(c) in units of 2^-32.
    samples: for every one of the classes, the samples that contain it.
    """

    classes: tuple[int, ...]
    thresholds: tuple[int, ...]
    samples: tuple[tuple[int, ...], ...]

    def sample_at(self, seed: int, stream: str, position: int) -> int:
        """The sample at a position of a stream."""
        word = key(seed, stream, f"rare class {position}")
        chosen = bisect.bisect_right(self.thresholds, word & (2**_BITS - 1))
        samples = self.samples[chosen]
        return samples[(word >> 64) * len(samples) >> 64]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """P(c) of `classes`."""
        bounds = (0, *self.thresholds)
        return tuple((b - a) / 2**_BITS for a, b in itertools.pairwise(bounds))


def class_probabilities(pixels: Sequence[int], temperature: float) -> list[float]:
    """P(c) of classes with these numbers of pixels; 0 for a class without any."""
    total = sum(pixels)
    shares = [count / total for count in pixels]
    rarest = min(share for share in shares if share)  # a factor in all terms, against overflow
    weights = [math.exp((rarest - share) / temperature) if share else 0.0 for share in shares]
    return [weight / sum(weights) for weight in weights]


def rare_class_order(pixels: np.ndarray, ignored: np.ndarray, temperature: float) -> RareClassOrder:
    """The order of samples with these histograms.

    pixels: int64 [n, classes]; ignored: int64 [n]. Raises ValueError if no class occurs.
    """
    if not pixels.any():
        raise ValueError("no sample has a pixel of a class")
    probabilities = class_probabilities(pixels.sum(axis=0).tolist(), temperature)
    classes = tuple(c for c, probability in enumerate(probabilities) if pixels[:, c].any())
    area = pixels.sum(axis=1) + ignored
    samples = []
    for c in classes:
        found = (pixels[:, c] >= np.maximum(1, MIN_SHARE * area)).nonzero()[0]
        if not found.size:
            found = pixels[:, c].nonzero()[0]
        samples.append(tuple(found.tolist()))
    sums = np.cumsum([probabilities[c] for c in classes])
    thresholds = [round(bound * 2**_BITS) for bound in sums.tolist()]
    thresholds[-1] = 2**_BITS
    return RareClassOrder(classes, tuple(thresholds), tuple(samples))
