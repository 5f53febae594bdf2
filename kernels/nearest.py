"""Which label pixel a feature pixel takes: as torch's F.interpolate(mode="nearest") does it.

torch computes ⌊i · source/size⌋ in float32, which differs from integer arithmetic for some sizes.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


@functools.cache
def nearest_index(size: int, source: int) -> Tensor:
    """int32 [size] on the CPU: for each of `size` positions the index into `source` positions.

    The tensor is shared: do not write to it.
    """
    scale = np.float32(source) / np.float32(size)
    index = np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int32)
    return torch.from_numpy(np.minimum(index, source - 1))


def nearest_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """labels [B,H,W] at `size` (h, w): the plain torch form, for references."""
    resized = torch.nn.functional.interpolate(labels[:, None].float(), size, mode="nearest")
    return resized[:, 0].to(labels.dtype)
