"""Which label pixel a feature pixel takes, of two rules.

By default that of torch's F.interpolate(mode="nearest"): ⌊i · source/size⌋ in float32, which
differs from integer arithmetic for some sizes.

`aligned`: the label pixel at which an upsampling with aligned corners puts the feature pixel, so
that features and labels meet where the classifier's scores and labels do:
⌊i · (source − 1)/(size − 1) + ½⌋, exactly; 0 where size is 1.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


@functools.cache
def nearest_index(size: int, source: int, aligned: bool = False) -> Tensor:
    """int32 [size] on the CPU: for each of `size` positions the index into `source` positions.

    The tensor is shared: do not write to it.
    """
    if aligned:
        return _aligned_positions(size, source, torch.device("cpu")).int()
    scale = np.float32(source) / np.float32(size)
    index = np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int32)
    return torch.from_numpy(np.minimum(index, source - 1))


def nearest_labels(labels: Tensor, size: tuple[int, int], aligned: bool = False) -> Tensor:
    """labels [B,H,W] at `size` (h, w): the plain torch form, for references."""
    if aligned:
        rows, columns = (
            _aligned_positions(n, source, labels.device)
            for n, source in zip(size, labels.shape[1:], strict=True)
        )
        return labels[:, rows[:, None], columns]
    resized = torch.nn.functional.interpolate(labels[:, None].float(), size, mode="nearest")
    return resized[:, 0].to(labels.dtype)


def _aligned_positions(size: int, source: int, device: torch.device) -> Tensor:
    last = max(size - 1, 1)
    return (2 * torch.arange(size, device=device) * (source - 1) + last) // (2 * last)
