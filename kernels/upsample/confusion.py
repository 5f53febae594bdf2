"""Confusion counts of bilinearly upsampled scores: what evaluation adds up per image.

    counts[k, j] = number of pixels with label k whose upsampled scores are largest for class j

Shapes: scores S [B, C, h, w] (any strides; float32, bfloat16 or float16), labels Y uint8 [B, H, W],
counts int64 [C, C] (rows truth, columns prediction). Pixels labelled `ignore_index` are not
counted. Interpolation is in float32; the first of equal maxima wins. Neither the upsampled scores
nor the predictions are ever stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.checks import check_label_values, check_labels, unknown_labels
from fastass.kernels.library import operator
from fastass.kernels.upsample import confusion_cpu as cpu
from fastass.kernels.upsample.grid import check_grid, check_ignore, check_scores, upsampled

# --- reference ------------------------------------------------------------------------------------


def reference(
    scores: Tensor, labels: Tensor, *, align_corners: bool, ignore_index: int = 255
) -> Tensor:
    """The definition."""
    classes = scores.shape[1]
    predictions = upsampled(scores, (labels.shape[1], labels.shape[2]), align_corners).argmax(1)
    unknown = unknown_labels(labels, classes, ignore_index)
    valid = (labels != ignore_index) & ~unknown
    bins = labels[valid].long() * classes + predictions[valid]
    counts = torch.bincount(bins, minlength=classes * classes).view(classes, classes)
    return torch.where(unknown.any(), -1, counts)


# --- registration ---------------------------------------------------------------------------------


def _cuda(*arguments: Any) -> Tensor:
    from fastass.kernels.upsample import confusion_gpu as gpu

    return gpu.count(*arguments)


def _fake(scores: Tensor, labels: Tensor, align_corners: bool, ignore_index: int) -> Tensor:
    return labels.new_empty((scores.shape[1], scores.shape[1]), dtype=torch.int64)


_operator = operator("upsample_confusion", cuda=_cuda, cpu=cpu.count, fake=_fake)

# --- public ---------------------------------------------------------------------------------------


def upsample_confusion(
    scores: Tensor, labels: Tensor, *, align_corners: bool, ignore_index: int = 255
) -> Tensor:
    """Confusion counts int64 [C, C] of upsampled scores: rows truth, columns prediction.

    scores: [B, C, h, w], float32, bfloat16 or float16, any strides, C ≤ 64; not differentiable.
    labels: uint8 [B, H, W], class ids below C or `ignore_index` (not counted).
    align_corners: as in `torch.nn.functional.interpolate`.

    Raises TypeError or ValueError for arguments that do not fit. A label that is no class and not
    `ignore_index` is a ValueError on the CPU; on CUDA, where looking would stall the queue, every
    count is -1.
    """
    implementation = dispatch.resolve(scores.device)
    check_scores(scores, implementation)
    check_labels(labels, scores, "scores")
    check_grid((labels.shape[1], labels.shape[2]), scores, align_corners, "labels")
    check_ignore(ignore_index)
    if implementation == "reference":
        check_label_values(labels, scores.shape[1], ignore_index)
        return reference(scores, labels, align_corners=align_corners, ignore_index=ignore_index)
    counts: Tensor = _operator(scores.detach(), labels.contiguous(), align_corners, ignore_index)
    return counts
