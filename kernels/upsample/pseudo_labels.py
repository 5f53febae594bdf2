"""Pseudo-labels: the most probable class of each pixel of upsampled scores, and how sure they are.

    Y[b, y, x] = argmax_k U[b, k, y, x],  U = bilinear(S) at H×W
    n[b]       = number of pixels of image b with max_k P[b, k, y, x] > threshold,  P = softmax(U)

Shapes: scores S [B, C, h, w] (any strides; float32, bfloat16 or float16), Y uint8 [B, H, W], n
int64 [B]. Sums are float32; the first of equal maxima wins. Neither U nor P is ever stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.library import operator
from fastass.kernels.upsample import softmax_cpu as cpu
from fastass.kernels.upsample.grid import check_grid, check_scores, upsampled


class PseudoLabels(NamedTuple):
    """labels: uint8 [B, H, W]. confident: int64 [B], pixels whose P is above the threshold."""

    labels: Tensor
    confident: Tensor


# --- reference ------------------------------------------------------------------------------------


def reference(
    scores: Tensor, size: tuple[int, int], threshold: float, *, align_corners: bool
) -> PseudoLabels:
    """The definition."""
    largest, labels = upsampled(scores, size, align_corners).softmax(1).max(1)
    return PseudoLabels(labels.to(torch.uint8), (largest > threshold).flatten(1).sum(1))


# --- registration ---------------------------------------------------------------------------------


def _cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    from fastass.kernels.upsample import pseudo_labels_gpu as gpu

    return gpu.pseudo_labels(*arguments)


def _fake(
    scores: Tensor, height: int, width: int, threshold: float, align_corners: bool
) -> tuple[Tensor, Tensor]:
    batch = scores.shape[0]
    return (
        scores.new_empty((batch, height, width), dtype=torch.uint8),
        scores.new_empty(batch, dtype=torch.int64),
    )


_operator = operator("upsample_pseudo_labels", cuda=_cuda, cpu=cpu.pseudo_labels, fake=_fake)

# --- public ---------------------------------------------------------------------------------------


def upsample_pseudo_labels(
    scores: Tensor, size: tuple[int, int], threshold: float, *, align_corners: bool
) -> PseudoLabels:
    """The most probable class of each pixel, and each image's number of confident pixels.

    scores: [B, C, h, w], float32, bfloat16 or float16, any strides, C ≤ 64; not differentiable.
    size: (H, W). threshold: a pixel is confident if the probability of its class is above it.
    align_corners: as in `torch.nn.functional.interpolate`.

    Raises TypeError or ValueError for arguments that do not fit.
    """
    implementation = dispatch.resolve(scores.device)
    check_scores(scores, implementation)
    check_grid(size, scores, align_corners, "size")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: got {threshold}, expected 0 to 1")
    if implementation == "reference":
        return reference(scores.detach(), size, threshold, align_corners=align_corners)
    return PseudoLabels(*_operator(scores.detach(), *size, float(threshold), align_corners))
