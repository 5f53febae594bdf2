"""The native confusion counts: `fastass.kernels.upsample.confusion` has the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels.native_library import ELEMENTS, call


def count(scores: Tensor, labels: Tensor, align_corners: bool, ignore_index: int) -> Tensor:
    batch, classes, in_height, in_width = scores.shape
    counts = labels.new_empty((classes, classes), dtype=torch.int64)
    call(
        "upsample_confusion",
        scores,
        ELEMENTS[scores.dtype],
        *scores.stride(),
        labels,
        counts,
        batch,
        classes,
        in_height,
        in_width,
        *labels.shape[1:],
        align_corners,
        ignore_index,
        torch.get_num_threads(),
    )
    return counts
