"""The native 3×3 convolutions: `fastass.kernels.convolution.winograd.conv3x3` has the contract."""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels import native_library


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, turned: bool, tile: int
) -> Tensor:
    """`turned`: the adjoint, from O to I channels, so the input's gradient from the output's."""
    B, inputs, h, w = x.shape
    y = output_fake(x, weight, bias, dilation, turned, tile)
    native_library.call(
        "convolution3x3",
        *(channels_innermost(x), channels_innermost(weight)),
        *(None if bias is None else bias.contiguous(), y),
        *(B, h, w, inputs, y.shape[1]),
        *(dilation, turned, tile, torch.get_num_threads()),
    )
    return y


def output_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, turned: bool, tile: int
) -> Tensor:
    """Uninitialised; no view of anything, so that what follows in a network may work in place."""
    size = (x.shape[0], weight.shape[1 if turned else 0], *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """In the strides of `weight`, which DistributedDataParallel expects."""
    of_weight = torch.empty_like(weight, memory_format=torch.channels_last)
    native_library.call(
        "convolution3x3_weight",
        *(channels_innermost(x), channels_innermost(gradient), of_weight),
        *(x.shape[0], *x.shape[2:], x.shape[1], weight.shape[0]),
        *(dilation, torch.get_num_threads()),
    )
    return in_strides_of(weight, of_weight)


def weight_fake(gradient: Tensor, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Uninitialised."""
    return torch.empty_like(weight)


def channels_innermost(t: Tensor) -> Tensor:
    """Dense [·, h, w, channels]. `contiguous` would not do where a size is 1."""
    return t.permute(0, 2, 3, 1).contiguous()


def in_strides_of(weight: Tensor, gradient: Tensor) -> Tensor:
    """The gradient, copied if its strides are not those of `weight`."""
    if gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight).copy_(gradient)
