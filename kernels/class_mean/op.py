"""Mean feature vector of each class, Eq. 4: V^k = Σ_p F_p [Y_p = k] / Σ_p [Y_p = k].

Shapes: B images, N channels, h×w feature pixels, H×W label pixels, C classes.
  features F [B,N,h,w], float32, bfloat16 or float16; channels last is the fast layout, channels
  first is read as it is, any other layout is copied first; labels Y [B,H,W], uint8.
  → means V [B,C,N] float32, counts [B,C] int64; an absent class has zeros and count 0.
Labels are nearest-indexed to h×w as F.interpolate(mode="nearest") does, or, `aligned`, at the pixel
where an upsampling with aligned corners puts the feature pixel (`fastass.kernels.nearest`). Pixels
labelled `ignore_index` take no part. Sums are float32 or better, in an order that the shapes alone
decide.
Saved for backward: labels and counts, never the features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.checks import (
    check_classes,
    check_label_values,
    check_labels,
    check_map,
    unknown_labels,
)
from fastass.kernels.class_mean import cpu as cpu
from fastass.kernels.layout import empty_map, is_channels_last
from fastass.kernels.library import operator
from fastass.kernels.nearest import nearest_labels

# --- reference ------------------------------------------------------------------------------------


def reference(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    ignore_index: int = 255,
    aligned: bool = False,
) -> tuple[Tensor, Tensor]:
    """The definition: one masked sum for each class. Keeps float64."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    classes = nearest_labels(labels, (features.shape[2], features.shape[3]), aligned)
    means, counts = [], []
    for k in range(num_classes):
        mask = (classes == k) & (classes != ignore_index)
        count = mask.sum((1, 2))
        total = (features * mask[:, None]).sum((2, 3))
        means.append(total / count.clamp(min=1)[:, None])
        counts.append(count)
    unknown = unknown_labels(classes, num_classes, ignore_index).flatten(1).any(1)
    poison = torch.where(unknown, torch.nan, 0.0)[:, None, None]
    return torch.stack(means, 1) + poison, torch.stack(counts, 1)


# --- registration ---------------------------------------------------------------------------------


def _cuda(*arguments: Any) -> tuple[Tensor, Tensor]:
    from fastass.kernels.class_mean import gpu

    return gpu.forward(*arguments)


def _backward_cuda(*arguments: Any) -> Tensor:
    from fastass.kernels.class_mean import gpu

    return gpu.backward(*arguments)


def _forward_fake(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    B, N = features.shape[:2]
    return (
        features.new_empty((B, num_classes, N), dtype=torch.float32),
        features.new_empty((B, num_classes), dtype=torch.int64),
    )


def _backward_fake(
    gradient: Tensor,
    counts: Tensor,
    labels: Tensor,
    size: list[int],
    ignore_index: int,
    dtype: torch.dtype,
    channels_last: bool,
    aligned: bool,
) -> Tensor:
    B, _, N = gradient.shape
    return empty_map(gradient, (B, N, *size), dtype, channels_last)


_forward = operator("class_mean", cuda=_cuda, cpu=cpu.forward, fake=_forward_fake)
_backward = operator(
    "class_mean_backward", cuda=_backward_cuda, cpu=cpu.backward, fake=_backward_fake
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, labels, _, ignore_index, ctx.aligned = inputs
    ctx.save_for_backward(labels, output[1])
    ctx.size = list(features.shape[2:])
    ctx.dtype, ctx.channels_last = features.dtype, is_channels_last(features)
    ctx.ignore_index = ignore_index
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    labels, counts = ctx.saved_tensors
    how = (ctx.ignore_index, ctx.dtype, ctx.channels_last, ctx.aligned)
    return _backward(gradient, counts, labels, ctx.size, *how), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)

# --- public ---------------------------------------------------------------------------------------


def class_mean(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    ignore_index: int = 255,
    aligned: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean feature vector of each class of each image, Eq. 4, and the pixels it is taken over.

    Args:
        features: F [B,N,h,w], float32, bfloat16 or float16, channels last for speed. Autocast does
            not change it: whatever the dtype, sums and means are float32.
        labels: Y [B,H,W], uint8, any size; nearest-indexed to h×w inside.
        num_classes: C, 1 to 64.
        ignore_index: the label of pixels that take no part.
        aligned: index the labels on the grid of an upsampling with aligned corners.

    Returns:
        means V [B,C,N] float32 (float64 for a float64 reference) and counts [B,C] int64. An absent
        class has zeros, count 0 and no gradient.

    Raises:
        TypeError, ValueError: an argument's dtype, shape, device or range; on a CPU also a label
            that is neither a class nor `ignore_index`. On CUDA, where looking would stall the
            queue, such a pixel is left out as if ignored, and the means of its image are NaN.
    """
    implementation = dispatch.resolve(features.device)
    check_map("features", features, implementation)
    check_labels(labels, features, "features")
    check_classes(num_classes, ignore_index)
    if implementation == "reference":
        read = nearest_labels(labels, (features.shape[2], features.shape[3]), aligned)
        check_label_values(read, num_classes, ignore_index)
        return reference(features, labels, num_classes, ignore_index, aligned)
    means, counts = _forward(features, labels, num_classes, ignore_index, aligned)
    return means, counts
