"""Prediction in tiles, without probabilities of the whole image in memory."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fastass import kernels
from fastass.inference.views import Views, evaluating, forward, spans
from fastass.models.deeplab import DeepLab
from fastass.runtime.device import Runtime

Region = tuple[int, int, int, int]
"""top, bottom, left, right."""


@dataclass
class _Cell:
    """A part of the image that every tile covers whole or not at all."""

    waiting: int
    """Tiles that are still to come."""
    sums: dict[bool, Tensor] = field(default_factory=dict)
    """Mirrored or not → sum of P [C,h,w] over the tiles so far."""
    counts: dict[bool, int] = field(default_factory=dict)


@torch.inference_mode()
def tiled_labels(
    generator: DeepLab,
    pixels: np.ndarray,
    prepare: Callable[[np.ndarray], Tensor],
    views: Views,
    runtime: Runtime,
) -> np.ndarray:
    """Train ids uint8 [H,W] of RGB uint8 [H,W,3], read in tiles at its own size.

    The same as the argmax of `views.probabilities` with one scale. A pixel's class is decided as
    soon as the last tile that covers it was seen, so in memory are the image and the sums where
    the tiles of one row overlap those of the next, not P of the whole image. prepare: RGB uint8
    [h,w,3] → the network's input [1,3,h,w].
    """
    assert views.tile is not None
    height, width = pixels.shape[:2]
    tops = [(s.start, s.stop) for s in spans(height, views.tile[1], views.overlap)]
    lefts = [(s.start, s.stop) for s in spans(width, views.tile[0], views.overlap)]
    jobs: list[tuple[Region, bool]] = [
        ((*rows, *columns), mirrored)
        for rows in tops
        for columns in lefts
        for mirrored in ((False, True) if views.flip else (False,))
    ]
    if views.flip:  # tiles of the mirrored image, in the image's own columns
        jobs = [
            ((top, bottom, width - right, width - left), True) if mirrored else (region, False)
            for region, mirrored in jobs
            for top, bottom, left, right in (region,)
        ]
        jobs.sort(key=lambda job: (job[0][0], job[0][2], job[1]))
    rows, columns = (_cuts(region[i : i + 2] for region, _ in jobs) for i in (0, 2))
    cells = _cells(jobs, rows, columns)
    labels = np.empty((height, width), np.uint8)
    corners = generator.config.align_corners
    with evaluating(generator):
        for (top, bottom, left, right), mirrored in jobs:
            image = prepare(pixels[top:bottom, left:right])
            scores = forward(generator, image.flip(3) if mirrored else image, runtime)
            size = (bottom - top, right - left)
            found = kernels.upsample_softmax(scores, size, align_corners=corners)[0]
            found = found.flip(2) if mirrored else found
            for region in _covered((top, bottom, left, right), rows, columns):
                a, b, c, d = region
                cell = cells[region]
                _add(cell, mirrored, found[:, a - top : b - top, c - left : d - left])
                if cell.waiting == 0:
                    labels[a:b, c:d] = _decide(cells.pop(region))
    assert not cells
    return labels


def _add(cell: _Cell, mirrored: bool, found: Tensor) -> None:
    cell.waiting -= 1
    cell.counts[mirrored] = cell.counts.get(mirrored, 0) + 1
    if mirrored in cell.sums:
        cell.sums[mirrored] += found
    else:  # a copy, or the tile's whole P would stay in memory
        cell.sums[mirrored] = found.clone() if cell.waiting else found


def _decide(cell: _Cell) -> np.ndarray:
    means = [total / cell.counts[mirrored] for mirrored, total in sorted(cell.sums.items())]
    total = means[0] if len(means) == 1 else means[0].add_(means[1]).div_(2)
    return total.argmax(0).to(torch.uint8).cpu().numpy()


def _cuts(edges: Iterable[tuple[int, ...]]) -> list[int]:
    return sorted({edge for pair in edges for edge in pair})


def _covered(region: Region, rows: Sequence[int], columns: Sequence[int]) -> list[Region]:
    """The cells inside a region."""
    top, bottom, left, right = region
    return [
        (a, b, c, d)
        for a, b in pairwise(y for y in rows if top <= y <= bottom)
        for c, d in pairwise(x for x in columns if left <= x <= right)
    ]


def _cells(
    jobs: Sequence[tuple[Region, bool]], rows: Sequence[int], columns: Sequence[int]
) -> dict[Region, _Cell]:
    cells: dict[Region, _Cell] = {}
    for region, _ in jobs:
        for cell in _covered(region, rows, columns):
            cells.setdefault(cell, _Cell(0)).waiting += 1
    return cells
