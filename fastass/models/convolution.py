"""Convolutions: each part of a training step in the form that the device does fastest.

On a CPU in fp32 with channels-last maps, oneDNN computes the output and the gradient of the input
fast, but the gradient of the weight at two thirds of the rate that it has in NCHW (measured: torch
2.13, AVX-512). So there the weight's gradient is computed from NCHW copies, which cost a tenth of
what they save, and that of a 1×1 convolution is one matrix product. Elsewhere torch's own rules.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> Tensor:
    """`F.conv2d` with the stride, padding and dilation of `like`; [B,N,h,w] → [B,M,h',w']."""
    assert isinstance(like.padding, tuple)
    geometry = (like.stride, like.padding, like.dilation)
    if _splits(x, weight):
        return _SplitBackward.apply(x, weight, bias, *geometry)
    return F.conv2d(x, weight, bias, *geometry)


def prefers_products(x: Tensor) -> bool:
    """Whether `x` is of the kind that this module treats by itself: fp32, channels-last, CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )


def _splits(x: Tensor, weight: Tensor) -> bool:
    # Few channels are little arithmetic for the copies: with 96 they cost more than they save.
    large = max(weight.shape[:2]) >= 128 and min(weight.shape[:2]) >= 64
    return large and torch.is_grad_enabled() and weight.requires_grad and prefers_products(x)


class _SplitBackward(torch.autograd.Function):
    """A convolution whose two gradients are computed in different memory layouts."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, dilation)
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if to_x:
            of_x = _backward(gradient, x, weight, ctx.geometry, (True, False))
        if to_weight and weight.shape[2:] == (1, 1) and ctx.geometry[0] == (1, 1):
            # In the weight's own strides and no view: else its sum with other streams' gradients
            # has other strides than DistributedDataParallel expects.
            of_weight = torch.empty_like(weight)
            torch.mm(_rows(gradient).t(), _rows(x), out=of_weight[..., 0, 0])
        elif to_weight:
            g, x, weight = (t.contiguous() for t in (gradient, x, weight))
            of_weight = _backward(g, x, weight, ctx.geometry, (False, True))
        if to_bias:
            of_bias = gradient.sum(dim=(0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None


def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: tuple[Pair, Pair, Pair],
    wanted: tuple[bool, bool],
) -> Tensor:
    stride, padding, dilation = geometry
    mask = [*wanted, False]
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, (0, 0), 1, mask
    )
    found: Tensor = of_x if wanted[0] else of_weight
    return found


def _rows(x: Tensor) -> Tensor:
    """[B,N,h,w] channels-last → its pixels [B·h·w, N], a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
