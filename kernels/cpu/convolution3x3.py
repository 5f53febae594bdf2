"""The native 3×3 convolutions: `fastass.kernels.convolution3x3` has the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels import native
from fastass.kernels.layout import empty_map


def output(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, tile: int) -> Tensor:
    bias = None if bias is None else bias.contiguous()
    return _convolve(x, weight, bias, weight.shape[0], dilation, False, tile)


def input_gradient(gradient: Tensor, weight: Tensor, dilation: int, tile: int) -> Tensor:
    """The convolution of `gradient` with the weight turned round, inputs and outputs exchanged."""
    return _convolve(gradient, weight, None, weight.shape[1], dilation, True, tile)


def weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int, tile: int
) -> Tensor:
    """In the strides of `weight`, which DistributedDataParallel expects."""
    found = torch.empty_like(weight, memory_format=torch.channels_last)
    native.call(
        "convolution3x3_weight",
        *(_rows(x), _rows(gradient), found),
        *(x.shape[0], *x.shape[2:], x.shape[1], weight.shape[0]),
        *(dilation, tile, torch.get_num_threads()),
    )
    if found.stride() == weight.stride():
        return found
    return torch.empty_like(weight).copy_(found)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    outputs: int,
    dilation: int,
    turned: bool,
    tile: int,
) -> Tensor:
    B, inputs, h, w = x.shape
    y = empty_map(x, (B, outputs, h, w), torch.float32)
    native.call(
        "convolution3x3",
        *(_rows(x), _rows(weight), bias, y),
        *(B, h, w, inputs, outputs),
        *(dilation, turned, tile, torch.get_num_threads()),
    )
    return y


def _rows(t: Tensor) -> Tensor:
    """Dense with the second dimension innermost. `contiguous` would not do where a size is 1."""
    return t.permute(0, 2, 3, 1).contiguous()
