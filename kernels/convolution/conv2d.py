"""The convolution: `F.conv2d` in the form that the device computes fastest.

    y[b,m,p] = bias[m] + Σ_{n,k} weight[m,n,k] x[b,n, stride·p + dilation·k − padding]

Shapes: x [B,N,h,w], weight [M,N,kh,kw], bias [M] → y [B,M,h',w'].

On a CPU in fp32 with channels-last maps (`cpu_forms.py`)

- 3×3 convolutions of stride 1 run in Winograd's form, with 2 to 4 times fewer multiplications;
- wide ones and classifiers compute the gradients of input and weight in different memory layouts
  (`split_backward.py`).

Elsewhere it is `F.conv2d`. So is the first with `kernels=reference`.
Saved for backward: x and weight.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.kernels.convolution.cpu_forms import has_winograd
from fastass.kernels.convolution.split_backward import (
    Geometry,
    Gradients,
    Pair,
    Wanted,
    split_conv2d,
    split_gradients,
    splits,
    torch_gradients,
)
from fastass.kernels.convolution.winograd.conv3x3 import (
    CHANNELS,
    conv3x3,
    conv3x3_gradients,
    saving,
)

Size = int | str | Sequence[int]  # of nn.Conv2d; a str, its "same" and "valid", is an error here

_SAVING = 1.5  # times fewer multiplications: below it, the transforms cost what they save


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
) -> Tensor:
    """y of `F.conv2d` with the same arguments, without groups; differentiable once.

    stride, padding, dilation: a number, or one for the height and one for the width.
    Raises ValueError for a padding in words, and whatever `F.conv2d` raises.
    """
    geometry = geometry_of(stride, padding, dilation)
    if _saves(x, weight, geometry):
        return conv3x3(x, weight, bias, dilation=geometry[2][0])
    trains = torch.is_grad_enabled() and weight.requires_grad
    if trains and splits(x, weight, geometry):
        return split_conv2d(x, weight, bias, geometry)
    return F.conv2d(x, weight, bias, *geometry)


def conv2d_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Wanted
) -> Gradients:
    """The gradients of x, weight and bias that are `wanted`, given that of y.

    For an operator that has a backward of its own. gradient: [B,M,h',w'].
    """
    if _saves(x, weight, geometry):
        d = geometry[2][0]
        return conv3x3_gradients(gradient, x, weight, dilation=d, wanted=wanted)
    if splits(x, weight, geometry):
        return split_gradients(gradient, x, weight, geometry, wanted)
    return torch_gradients(gradient, x, weight, geometry, wanted)


def geometry_of(stride: Size, padding: Size, dilation: Size) -> Geometry:
    """Each as a pair, for the height and the width."""
    return _pair(stride), _pair(padding), _pair(dilation)


def _pair(size: Size) -> Pair:
    if isinstance(size, int):
        return size, size
    if isinstance(size, str):
        raise ValueError(f"conv2d: got {size!r} as padding, expected one or two numbers")
    height, width = size
    return height, width


def _saves(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether Winograd's form of the convolution is the faster one."""
    stride, padding, dilation = geometry
    return (
        weight.shape[2:] == (3, 3)
        and stride == (1, 1)
        and padding == dilation
        and dilation[0] == dilation[1]
        and weight.shape[0] % CHANNELS == 0
        and weight.shape[1] % CHANNELS == 0
        and has_winograd(x)
        and saving(x.shape[2], x.shape[3], dilation[0], 2) >= _SAVING
    )
