"""The stride-1 3×3 convolution with padding = dilation, in fewer multiplications on a CPU.

    y[b,o,p] = bias[o] + Σ_{c,k} w[o,c,k] x[b,c,p + d·k],  k in {-1,0,1}², x zero outside the map

Shapes: x [B,I,h,w], weight [O,I,3,3], bias [O], dilation d → y [B,O,h,w]; I and O multiples of 32;
all float32. Channels last is the layout that is read and returned; another is copied first.
Winograd's form computes m×m outputs from (m+2)² products instead of 9m²: 2.25 times fewer at m = 2,
4 times at m = 4, less what tiles overhang the map's edge (`saving`). A dilated convolution is d²
undilated ones side by side.
Rounding: m = 4 is chosen only where its error is at most twice that of torch's convolution: for y
and the gradient of x where they sum at least 256 channels. m = 2 has about torch's error or less.
A value that is not finite makes its whole tile not finite, where torch loses 9 pixels.
Saved for backward: x and weight, no transformed tile.

There is no Triton kernel, since cuDNN has Winograd forms itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastass.kernels import dispatch
from fastass.kernels.convolution.winograd import conv3x3_cpu as cpu
from fastass.kernels.library import operator

CHANNELS = 32  # the panels of the native routine divide it
_SUMMED_CHANNELS = 256  # see Rounding

Wanted = tuple[bool, bool, bool]  # the gradient of the input, the weight, the bias
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

# --- reference ------------------------------------------------------------------------------------


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """The definition. Keeps float64."""
    return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)


def reference_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int, wanted: Wanted
) -> Gradients:
    d = (dilation, dilation)
    bias = [weight.shape[0]]
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        gradient, x, weight, bias, (1, 1), d, d, False, (0, 0), 1, wanted
    )
    return of_x, of_weight, of_bias


# --- the size of a tile ---------------------------------------------------------------------------


@functools.cache
def saving(height: int, width: int, dilation: int, tile: int) -> float:
    """How many times fewer multiplications tiles of `tile`² outputs take than the definition."""

    def tiles(length: int) -> int:
        return sum(-(-(length - p) // (dilation * tile)) for p in range(min(dilation, length)))

    products = tiles(height) * tiles(width) * (tile + 2) ** 2
    return 9 * height * width / products


def output_tile(x: Tensor, channels: int, dilation: int) -> int:
    """m for an output of the size of `x` whose every value sums `channels`."""
    size = (x.shape[2], x.shape[3], dilation)
    return 4 if channels >= _SUMMED_CHANNELS and saving(*size, 4) > saving(*size, 2) else 2


# --- registration ---------------------------------------------------------------------------------

_convolve = operator("conv3x3", cuda=None, cpu=cpu.convolve, fake=cpu.output_fake)
_weight_gradient = operator(
    "conv3x3_weight", cuda=None, cpu=cpu.weight_gradient, fake=cpu.weight_fake
)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        tile = output_tile(x, weight.shape[1], dilation)
        y: Tensor = _convolve(x, weight, bias, dilation, False, tile)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_gradients(gradient, x, weight, ctx.dilation, ctx.needs_input_grad[:3]), None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int, wanted: Wanted
) -> Gradients:
    to_x, to_weight, to_bias = wanted
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    of_x = of_weight = of_bias = None
    if to_x:
        tile = output_tile(gradient, weight.shape[0], dilation)
        of_x = _convolve(gradient, weight, None, dilation, True, tile)
    if to_weight:
        of_weight = _weight_gradient(gradient, x, weight, dilation)
    if to_bias:
        of_bias = gradient.sum(dim=(0, 2, 3))
    return of_x, of_weight, of_bias


_differentiable: Callable[..., Tensor] = _Convolution.apply

# --- public ---------------------------------------------------------------------------------------


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dilation: int = 1) -> Tensor:
    """`F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)` for 3×3 weights.

    Args:
        x: [B,I,h,w] float32 on a CPU, channels last for speed.
        weight: [O,I,3,3] float32; I and O are multiples of 32.
        bias: [O] float32.
        dilation: at least 1; also the padding.

    Returns:
        y [B,O,h,w] float32, channels last. Differentiable once.

    Raises:
        TypeError, ValueError: an argument's dtype, shape, device or range.
        RuntimeError: the tensors are not on a CPU and kernels is not `reference`.
    """
    if _check(x, weight, dilation) == "reference":
        return reference(x, weight, bias, dilation)
    if bias is not None and (bias.dtype != x.dtype or bias.shape != weight.shape[:1]):
        raise ValueError(
            f"bias: got {tuple(bias.shape)} {bias.dtype}, expected ({weight.shape[0]},) {x.dtype}"
        )
    return _differentiable(x, weight, bias, dilation)


def conv3x3_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, *, dilation: int, wanted: Wanted
) -> Gradients:
    """The gradients of x, weight and bias that are `wanted`, given that of y.

    For an operator that has a backward of its own. gradient: [B,O,h,w]; the other arguments and
    the errors are those of `conv3x3`. The weight's gradient has the weight's strides.
    """
    if _check(x, weight, dilation) == "reference":
        return reference_gradients(gradient, x, weight, dilation, wanted)
    expected = (x.shape[0], weight.shape[0], *x.shape[2:])
    if gradient.shape != expected or gradient.dtype != x.dtype:
        raise ValueError(
            f"gradient: got {tuple(gradient.shape)} {gradient.dtype}, expected {expected} {x.dtype}"
        )
    return _gradients(gradient, x, weight, dilation, wanted)


def _check(x: Tensor, weight: Tensor, dilation: int) -> str:
    """The implementation, once the arguments are what the native routine relies on."""
    implementation = dispatch.resolve(x.device)
    if x.dim() != 4 or 0 in x.shape:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected non-empty [B, I, h, w]")
    if weight.dim() != 4 or weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, expected [O, {x.shape[1]}, 3, 3] as x has "
            f"{x.shape[1]} channels"
        )
    if dilation < 1:
        raise ValueError(f"dilation: got {dilation}, expected at least 1")
    if implementation == "reference":
        return implementation
    if implementation != "native":
        raise RuntimeError(
            f"conv3x3: no implementation for {x.device.type} tensors but the reference; "
            "use F.conv2d there"
        )
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name}: got {tensor.dtype}, expected torch.float32")
        if tensor.device != x.device:
            raise ValueError(f"{name}: got device {tensor.device}, expected {x.device} as x")
    if any(channels % CHANNELS or not channels for channels in weight.shape[:2]):
        raise ValueError(
            f"weight: got shape {tuple(weight.shape)}, expected O and I to be multiples of "
            f"{CHANNELS}"
        )
    return implementation
