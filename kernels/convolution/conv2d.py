"""Convolutions: each part of a training step in the form that the device does fastest.

On a CPU in fp32 with channels-last maps, where arithmetic is what bounds a step,

- the 3×3 convolutions of stride 1 run in Winograd's form, in 2 to 4 times fewer multiplications;
- of the others oneDNN computes the output and the gradient of the input fast, but the gradient of
  the weight at two thirds of the rate that it has in NCHW (measured: torch 2.13, AVX-512). So that
  is computed from NCHW copies, which cost a tenth of what they save, for a 1×1 convolution as one
  matrix product, and for a classifier's 19 outputs with inputs and outputs exchanged.

Elsewhere, and for the first also with `kernels=reference`, torch's own rules.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastass.kernels import dispatch
from fastass.kernels.convolution.winograd.conv3x3 import (
    CHANNELS,
    convolution3x3,
    convolution3x3_gradients,
    saving,
)

Pair = tuple[int, int]
Geometry = tuple[Pair, Pair, Pair]  # stride, padding, dilation
Wanted = tuple[bool, bool, bool]  # the gradient of the input, the weight, the bias
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

_SAVING = 1.5  # times fewer multiplications: below, the transforms cost what they save

_winograd = True


def use_winograd(on: bool) -> None:
    """Whether convolutions may run in Winograd's form, process-wide; for measurements."""
    global _winograd
    _winograd = on


def takes_winograd(x: Tensor) -> bool:
    """Whether convolutions of `x` may run in Winograd's form at all."""
    return _winograd and prefers_products(x) and dispatch.resolve(x.device) == "native"


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, like: nn.Conv2d) -> Tensor:
    """`F.conv2d` with the stride, padding and dilation of `like`; [B,N,h,w] → [B,M,h',w']."""
    geometry = _geometry(like)
    if _saves(x, weight, geometry):
        return convolution3x3(x, weight, bias, dilation=geometry[2][0])
    wanted = torch.is_grad_enabled() and weight.requires_grad
    if wanted and _splits(x, weight, geometry):
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
        and takes_winograd(x)
        and saving(x.shape[2], x.shape[3], dilation[0], 2) >= _SAVING
    )


def _splits(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the two gradients are faster apart, each in a layout of its own."""
    return (_wide(weight) or _narrow(weight, geometry)) and prefers_products(x)


def _wide(weight: Tensor) -> bool:
    # Few channels are little arithmetic for the copies: with 96 they cost more than they save.
    return max(weight.shape[:2]) >= 128 and min(weight.shape[:2]) >= 64


def _narrow(weight: Tensor, geometry: Geometry) -> bool:
    """A classifier: fewer outputs than oneDNN's blocks of 32; the output has the input's size."""
    stride, padding, dilation = geometry
    outputs, inputs, *kernel = weight.shape
    same = all(2 * p == d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True))
    return outputs < 32 and inputs >= 64 and stride == (1, 1) and same


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
        wanted = ctx.needs_input_grad[:3]
        return *_split(gradient, x, weight, ctx.geometry, wanted), None, None, None


def gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, like: nn.Conv2d, wanted: Wanted
) -> Gradients:
    """Those `wanted` of input, weight and bias of `conv2d(x, weight, bias, like)`."""
    geometry = _geometry(like)
    if _saves(x, weight, geometry):
        d = geometry[2][0]
        return convolution3x3_gradients(gradient, x, weight, dilation=d, wanted=wanted)
    if _splits(x, weight, geometry):
        return _split(gradient, x, weight, geometry, wanted)
    return _backward(gradient, x, weight, geometry, wanted)


def _split(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Wanted
) -> Gradients:
    to_x, to_weight, to_bias = wanted
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    of_x = of_weight = of_bias = None
    if to_x:
        of_x, _, _ = _backward(gradient, x, weight, geometry, (True, False, False))
    if to_weight and weight.shape[2:] == (1, 1) and geometry[0] == (1, 1):
        # In the weight's own strides and no view: else its sum with other streams' gradients
        # has other strides than DistributedDataParallel expects.
        of_weight = torch.empty_like(weight)
        torch.mm(_rows(gradient).t(), _rows(x), out=of_weight[..., 0, 0])
    elif to_weight and _narrow(weight, geometry):
        of_weight = _turned(gradient, x, weight, geometry)
    elif to_weight:
        g, x, weight = (t.contiguous() for t in (gradient, x, weight))
        _, of_weight, _ = _backward(g, x, weight, geometry, (False, True, False))
    if to_bias:
        of_bias = gradient.sum(dim=(0, 2, 3))
    return of_x, of_weight, of_bias


def _turned(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of a `_narrow` weight, as that of the convolution that leads from the outputs to
    the inputs: its taps are the same sums, mirrored. There the many channels fill the blocks.
    """
    turned = torch.empty_like(weight.transpose(0, 1))
    _, found, _ = _backward(x, gradient, turned, geometry, (False, True, False))
    assert found is not None
    return torch.empty_like(weight).copy_(found.transpose(0, 1).flip(2, 3))


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Wanted
) -> Gradients:
    stride, padding, dilation = geometry
    bias = [weight.shape[0]]
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        gradient, x, weight, bias, stride, padding, dilation, False, (0, 0), 1, wanted
    )
    return of_x, of_weight, of_bias


def _geometry(layer: nn.Conv2d) -> Geometry:
    return layer.stride, layer.padding, layer.dilation  # type: ignore[return-value]


def _rows(x: Tensor) -> Tensor:
    """[B,N,h,w] channels-last → its pixels [B·h·w, N], a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
