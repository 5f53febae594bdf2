"""The native softmax and cross-entropy of bilinearly upsampled scores.

`softmax`, `cross_entropy` and `pseudo_labels` beside it have the contracts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels.native_library import ELEMENTS, call
from fastass.kernels.upsample.grid import empty_gradient, empty_probabilities


def forward(
    scores: Tensor,
    labels: Tensor | None,
    size: tuple[int, int],
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
    full: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Weighted sum of losses (float64), valid pixels, the gradient of the sum (float32), P."""
    batch, classes, in_height, in_width = scores.shape
    loss = torch.zeros((), dtype=torch.float64)
    valid = torch.zeros((), dtype=torch.int64)
    gradient = empty_gradient(scores) if need_gradient else None
    probabilities = empty_probabilities(scores, size) if need_probabilities else None
    strides = probabilities.stride() if probabilities is not None else (0, 0, 0, 0)
    call(
        "upsample_softmax_forward",
        scores,
        ELEMENTS[scores.dtype],
        *scores.stride(),
        labels,
        full,
        scale,
        probabilities,
        *strides,
        gradient,
        loss,
        valid,
        batch,
        classes,
        in_height,
        in_width,
        *size,
        align_corners,
        ignore_index,
        torch.get_num_threads(),
    )
    return loss, valid, gradient, probabilities


def backward(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    """Float32 gradient of the scores, given that of P."""
    gradient = empty_gradient(scores)
    call(
        "upsample_softmax_backward",
        scores,
        ELEMENTS[scores.dtype],
        *scores.stride(),
        incoming,
        *incoming.stride(),
        gradient,
        *scores.shape,
        *incoming.shape[2:],
        align_corners,
        torch.get_num_threads(),
    )
    return gradient


def pseudo_labels(
    scores: Tensor, height: int, width: int, threshold: float, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """The most probable class of each pixel, uint8; each image's confident pixels, int64."""
    batch = scores.shape[0]
    winners = torch.empty((batch, height, width), dtype=torch.uint8)
    confident = torch.empty(batch, dtype=torch.int64)
    call(
        "upsample_pseudo_labels",
        scores,
        ELEMENTS[scores.dtype],
        *scores.stride(),
        winners,
        confident,
        threshold,
        *scores.shape,
        height,
        width,
        align_corners,
        torch.get_num_threads(),
    )
    return winners, confident
