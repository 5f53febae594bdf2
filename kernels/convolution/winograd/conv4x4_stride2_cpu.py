"""The native 4×4 convolutions of stride 2 and padding 1, with the leaky ReLU between two of them.

The contract is in `conv4x4_stride2.py`. All maps are float32 in channels-last memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels import native_library


def convolve(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """x [B,C,H,W], weight [O,C,4,4], bias [O] → y [B,O,⌊H/2⌋,⌊W/2⌋], after a leaky ReLU.

    slope: of the leaky ReLU; 1 is none.
    """
    B, _, H, W = x.shape
    size = (B, weight.shape[0], H // 2, W // 2)
    y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    native_library.call("convolution4x4", x, _rows(weight), bias, y, *_sizes(x, weight, slope))
    return y


def input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, slope: float, gated: bool
) -> Tensor:
    """That of x, given that of y; where `gated`, of the leaky ReLU's input whose output is x."""
    of_x = torch.empty_like(x)
    gate = x if gated else None
    sizes = _sizes(x, weight, slope)
    native_library.call("convolution4x4_input", _rows(gradient), _rows(weight), gate, of_x, *sizes)
    return of_x


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """In the strides of `weight`."""
    found = torch.empty_like(weight, memory_format=torch.channels_last)
    B, C, H, W = x.shape
    sizes = (B, H, W, C, weight.shape[0], torch.get_num_threads())
    native_library.call("convolution4x4_weight", x, _rows(gradient), found, *sizes)
    if found.stride() == weight.stride():
        return found
    return torch.empty_like(weight).copy_(found)


def _sizes(x: Tensor, weight: Tensor, slope: float) -> tuple[float, ...]:
    B, C, H, W = x.shape
    return (B, H, W, C, weight.shape[0], slope, torch.get_num_threads())


def _rows(t: Tensor) -> Tensor:
    """Dense with the second dimension innermost. `contiguous` would not do where a size is 1."""
    return t.permute(0, 2, 3, 1).contiguous()
