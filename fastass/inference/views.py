"""Inference: class probabilities of images, of one view or as the mean over several.

A view is the image at one scale, as it is or mirrored; with tiles, the network sees each view in
overlapping pieces. What is averaged is always the softmax probability of every pixel:

    P[b, k, y, x] = mean over views v of softmax_k(S_v[b, ·, y, x])

Shapes: images [B, 3, h, w] (normalised), P [B, C, H, W].
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass import kernels
from fastass.errors import UserError
from fastass.inference.upsampled_labels import upsampled_labels
from fastass.models.deeplab import DeepLab
from fastass.runtime.device import Runtime


@dataclass(frozen=True)
class Views:
    """The views of an image that the network sees. Raises UserError for impossible values.

    scales: factors on the size that the network reads. flip: also mirrored. tile: (W,H) of the
    pieces in which a large view is read, each sharing at least `overlap` pixels with the next.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: tuple[int, int] | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"scales: expected factors above 0, got {self.scales}")
        if self.tile is None and self.overlap:
            raise UserError("overlap: tiles overlap; give --tile WxH too")
        if self.tile is not None and min(self.tile) < 1:
            raise UserError(f"tile: expected a size above 0, got {self.tile[0]}x{self.tile[1]}")
        if self.tile is not None and not 0 <= self.overlap < min(self.tile):
            raise UserError(
                f"overlap: expected 0 … {min(self.tile) - 1} pixels, less than the "
                f"{self.tile[0]}x{self.tile[1]} tile, got {self.overlap}"
            )

    @property
    def single(self) -> bool:
        """Whether there is one view: the unchanged image."""
        return len(self.scales) == 1 and not self.flip and self.tile is None

    def read_at(self, size: tuple[int, int]) -> tuple[int, int]:
        """(W,H) at which to read an image whose scale 1 is `size`: that of the largest scale."""
        largest = max(self.scales)
        return max(1, round(size[0] * largest)), max(1, round(size[1] * largest))


SINGLE = Views()


@torch.inference_mode()
def probabilities(
    generator: DeepLab,
    images: Tensor,
    size: tuple[int, int],
    views: Views,
    runtime: Runtime,
) -> Tensor:
    """P float32 [B,C,H,W] at `size` (H,W) of images [B,3,h,w] read at `views.read_at`."""
    images = images.to(runtime.device, non_blocking=True)
    height, width = images.shape[2:]
    largest = max(views.scales)
    total: Tensor | None = None
    pairs = list(product(views.scales, (False, True) if views.flip else (False,)))
    with evaluating(generator):
        for scale, mirrored in pairs:
            at = max(1, round(height * scale / largest)), max(1, round(width * scale / largest))
            view = resize(images, at)
            P = _look(generator, view.flip(3) if mirrored else view, size, views, runtime)
            P = P.flip(3) if mirrored else P
            total = P if total is None else total.add_(P)
    assert total is not None
    return total.div_(len(pairs))


@torch.inference_mode()
def labels(
    generator: DeepLab,
    images: Tensor,
    size: tuple[int, int],
    views: Views,
    runtime: Runtime,
) -> Tensor:
    """The most probable class of each pixel, uint8 [B,H,W]; arguments as of `probabilities`."""
    if not views.single:
        return probabilities(generator, images, size, views, runtime).argmax(1).to(torch.uint8)
    with evaluating(generator):
        scores = forward(generator, images, runtime)
    return upsampled_labels(scores, size, generator.config.align_corners)


def forward(generator: DeepLab, images: Tensor, runtime: Runtime) -> Tensor:
    """S float32 [B,C,h,w] in the precision of the runtime."""
    with runtime.autocast():
        scores: Tensor = generator(images.to(runtime.device, non_blocking=True)).scores
        return scores.float()


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, as when images are read; it commutes with normalisation."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)


def _look(
    generator: DeepLab, view: Tensor, size: tuple[int, int], views: Views, runtime: Runtime
) -> Tensor:
    """P [B,C,H,W] at `size` of one view."""
    corners = generator.config.align_corners
    if views.tile is None:
        scores = forward(generator, view, runtime)
        return kernels.upsample_softmax(scores, size, align_corners=corners)
    batch, _, height, width = view.shape
    total = view.new_zeros((batch, generator.config.num_classes, height, width))
    count = total.new_zeros((height, width))
    for rows, columns in tiles((height, width), views.tile, views.overlap):
        piece = view[:, :, rows, columns]
        scores = forward(generator, piece, runtime)
        own = (piece.shape[2], piece.shape[3])
        P = kernels.upsample_softmax(scores, own, align_corners=corners)
        total[:, :, rows, columns] += P
        count[rows, columns] += 1
    total /= count
    if (height, width) == size:
        return total
    return F.interpolate(total, size=size, mode="bilinear", align_corners=False)


def tiles(
    size: tuple[int, int], tile: tuple[int, int], overlap: int
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles (W,H) that cover `size` (H,W), all of one size.

    Neighbours share at least `overlap` pixels; an image smaller than the tile is one tile.
    """
    rows = spans(size[0], tile[1], overlap)
    yield from product(rows, spans(size[1], tile[0], overlap))


def spans(length: int, tile: int, overlap: int) -> list[slice]:
    """The tiles along one axis."""
    tile = min(tile, length)
    reach = max(1, tile - overlap)
    count = 1 + -(-(length - tile) // reach)
    starts = (round(i * (length - tile) / max(1, count - 1)) for i in range(count))
    return [slice(start, start + tile) for start in starts]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, and back into its mode afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
