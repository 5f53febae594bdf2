"""The native 4×4 convolutions of stride 2 and padding 1, with the leaky ReLU between two of them.

The contract is in `conv4x4_stride2.py`. All maps are float32 in channels-last memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels import native_library
from fastass.kernels.convolution.winograd.conv3x3_cpu import channels_innermost, in_strides_of


def convolve(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """x [B,C,H,W], weight [O,C,4,4], bias [O] → y [B,O,⌊H/2⌋,⌊W/2⌋], after a leaky ReLU.

    slope: of the leaky ReLU; 1 means none.
    """
    B, _, H, W = x.shape
    size = (B, weight.shape[0], H // 2, W // 2)
    y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    weight = channels_innermost(weight)
    native_library.call("convolution4x4", x, weight, bias, y, *_sizes(x, y.shape[1], slope))
    return y


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, slope: float | None) -> Tensor:
    """That of x, given that of y. slope: of a leaky ReLU whose output is x; then that of its
    input."""
    of_x = torch.empty_like(x)
    gate = None if slope is None else x
    sizes = _sizes(x, weight.shape[0], 1.0 if slope is None else slope)
    gradient, weight = channels_innermost(gradient), channels_innermost(weight)
    native_library.call("convolution4x4_input", gradient, weight, gate, of_x, *sizes)
    return of_x


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """That of the weight, in its strides."""
    of_weight = torch.empty_like(weight, memory_format=torch.channels_last)
    sizes = (*_shape(x), weight.shape[0], torch.get_num_threads())
    gradient = channels_innermost(gradient)
    native_library.call("convolution4x4_weight", x, gradient, of_weight, *sizes)
    return in_strides_of(weight, of_weight)


def _shape(x: Tensor) -> tuple[int, int, int, int]:
    B, C, H, W = x.shape
    return B, H, W, C


def _sizes(x: Tensor, outputs: int, slope: float) -> tuple[float, ...]:
    return (*_shape(x), outputs, slope, torch.get_num_threads())
