"""The native class means (Eq. 4): `fastass.kernels.class_mean.op` has the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels import native_library
from fastass.kernels.layout import dense, empty_map
from fastass.kernels.nearest import nearest_index


def forward(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    features, channels_last = dense(features)
    B, N, h, w = features.shape
    H, W = labels.shape[1:]
    means = torch.empty((B, num_classes, N))
    counts = torch.empty((B, num_classes), dtype=torch.int64)
    native_library.call(
        "class_mean",
        features,
        native_library.ELEMENTS[features.dtype],
        channels_last,
        labels.contiguous(),
        nearest_index(h, H, aligned),
        nearest_index(w, W, aligned),
        *(B, N, h, w, H, W),
        num_classes,
        ignore_index,
        means,
        counts,
        torch.get_num_threads(),
    )
    return means, counts


def backward(
    gradient: Tensor,
    counts: Tensor,
    labels: Tensor,
    size: list[int],
    ignore_index: int,
    dtype: torch.dtype,
    channels_last: bool,
    aligned: bool,
) -> Tensor:
    B, C, N = gradient.shape
    (h, w), (H, W) = size, labels.shape[1:]
    out = empty_map(gradient, (B, N, h, w), dtype, channels_last)
    native_library.call(
        "class_mean_backward",
        gradient.contiguous(),
        counts,
        labels.contiguous(),
        nearest_index(h, H, aligned),
        nearest_index(w, W, aligned),
        *(B, N, h, w, H, W),
        C,
        ignore_index,
        out,
        native_library.ELEMENTS[dtype],
        channels_last,
        torch.get_num_threads(),
    )
    return out
