"""What the upsampling operators share: the bilinear grid in plain torch, outputs and checks.

Bilinear upsampling of scores S [B, C, h, w] to H×W: output position i of an axis with n inputs and
m outputs reads from

    align_corners:  x = i (n-1) / (m-1)        else:  x = max(0, ((2i+1) n - m) / (2m))

between ⌊x⌋ and ⌊x⌋+1 (at most n-1), the second with weight x - ⌊x⌋. The fast implementations
compute it from integers, which is closer to the definition than torch's float32 products.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fastass.kernels.checks import MAX_CLASSES, check_map


def upsampled(scores: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """The full-resolution scores in float32 (float64 stays): the reference's first step."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return functional.interpolate(wide, size=size, mode="bilinear", align_corners=align_corners)


def empty_gradient(scores: Tensor) -> Tensor:
    return torch.empty(
        scores.shape,
        dtype=torch.float32,
        device=scores.device,
        memory_format=torch.channels_last,
    )


def empty_probabilities(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.empty(
        (*scores.shape[:2], *size),
        dtype=scores.dtype,
        device=scores.device,
        memory_format=torch.channels_last,
    )


def check_scores(scores: Tensor, implementation: str) -> None:
    """scores: non-empty [B, C, h, w], float32, bfloat16 or float16, C ≤ 64."""
    check_map("scores", scores, implementation)
    if scores.shape[1] > MAX_CLASSES:
        raise ValueError(f"scores: got {scores.shape[1]} classes, expected at most {MAX_CLASSES}")


def check_grid(size: tuple[int, int], scores: Tensor, align_corners: bool, name: str) -> None:
    """An output size that the kernels' 32-bit positions can hold, and a real bool."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name}: got size {tuple(size)}, expected positive (H, W)")
    pixels = scores.shape[0] * size[0] * size[1]
    if pixels >= 2**31 or max(*size, *scores.shape[2:]) > 2**14:
        raise ValueError(
            f"{name}: got {scores.shape[0]}×{size[0]}×{size[1]}, expected sides up to {2**14} and "
            "fewer than 2^31 pixels"
        )
    if not isinstance(align_corners, bool):
        raise TypeError(f"align_corners: got {align_corners!r}, expected True or False")


def check_ignore(ignore_index: int) -> None:
    if not 0 <= ignore_index <= 255:
        raise ValueError(f"ignore_index: got {ignore_index}, expected 0 to 255")
