"""Memory layouts of feature maps [B, N, h, w]: what the kernels read, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def is_channels_last(features: Tensor) -> bool:
    """The layout that is read and that the gradient gets: channels first only if dense in that."""
    return features.is_contiguous(memory_format=torch.channels_last) or not features.is_contiguous()


def dense(features: Tensor) -> tuple[Tensor, bool]:
    """features in one of the two layouts, a copy only if they are in neither; channels last?"""
    channels_last = is_channels_last(features)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return features.contiguous(memory_format=layout), channels_last


def empty_map(
    like: Tensor, shape: Sequence[int], dtype: torch.dtype, channels_last: bool = True
) -> Tensor:
    """An uninitialised [B, N, h, w] on the device of `like`."""
    B, N, h, w = shape
    if channels_last:
        return like.new_empty((B, h, w, N), dtype=dtype).permute(0, 3, 1, 2)
    return like.new_empty((B, N, h, w), dtype=dtype)


def rows_of(features: Tensor) -> Tensor:
    """[P, N] with P = B·h·w: a view of channels-last features, else a copy."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def contiguous_rows(features: Tensor) -> Tensor:
    """`rows_of`, contiguous: a view where features are dense in channels-last memory."""
    return rows_of(features.contiguous(memory_format=torch.channels_last)).contiguous()


def map_of(rows: Tensor, batch: int, size: Sequence[int]) -> Tensor:
    """rows [P, N] as [B, N, h, w] in channels-last memory."""
    return rows.view(batch, *size, -1).permute(0, 3, 1, 2)


def kept_with(owner: Tensor, name: str, make: Callable[[], Tensor]) -> Tensor:
    """What `make` returns, made once per device of `owner` and kept as its attribute `name`."""
    kept: Tensor | None = getattr(owner, name, None)
    if kept is None or kept.device != owner.device:
        with torch.inference_mode(False):
            kept = make()
        setattr(owner, name, kept)
    return kept
