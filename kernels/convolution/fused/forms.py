"""A convolution and its epilogue on a GPU, forward and backward:

    y = ReLU(conv(x; weight) + shift + residual)
    dx = (dconv + residual) · [gate > 0]

The forms, of which `choice` runs one:

- "cudnn": cuDNN's convolution, and one kernel behind it;
- "cudnn-fused": cuDNN's convolution with bias, residual and ReLU, forward only;
- "triton": a product with all of it behind, for 1×1 convolutions of stride 1.

In front of a batch norm (`conv_moments`) the first is followed by the statistics' kernel; the last
takes the statistics too. The fused ones are for bf16 and fp16 in channels-last memory. `shift` is
rounded to that by cuDNN's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastass.kernels.convolution.conv2d import conv2d, conv2d_gradients
from fastass.kernels.convolution.epilogue import convolution_epilogue_
from fastass.kernels.convolution.folding import rounded
from fastass.kernels.convolution.fused import choice
from fastass.kernels.convolution.norm import op as norm
from fastass.kernels.convolution.split_backward import Geometry
from fastass.kernels.layout import contiguous_rows, map_of

_CHANNELS = 64  # of which the product's inputs and outputs are a multiple
_HALF = (torch.bfloat16, torch.float16)
_PLAIN: Geometry = ((1, 1), (0, 0), (1, 1))
_Forms = dict[str, Callable[[], Tensor]]


def conv_epilogue(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    geometry: Geometry,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """y [B,M,h',w'] in the dtype of x and weight, for x [B,N,h,w] and shift [M] float32."""

    def cudnn() -> Tensor:
        # In place: a sum beside y would leave a hole in memory for each block.
        y = conv2d(x, weight, None, *geometry)
        return convolution_epilogue_(y, shift, residual, relu=relu)

    def cudnn_fused() -> Tensor:
        return _cudnn_fused(x, weight, rounded(shift, x.dtype), geometry, residual)

    def triton() -> Tensor:
        return pointwise(x, weight[:, :, 0, 0], shift, residual, relu=relu)

    if not _may_fuse(x, residual):
        return cudnn()
    forms: _Forms = {"cudnn": cudnn}
    if relu:
        forms["cudnn-fused"] = cudnn_fused
    if _is_pointwise(weight, geometry):
        forms["triton"] = triton
    return choice.run(("forward", *_sizes(x, weight), geometry, residual is None, relu), forms)


def conv_gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
    *,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """dx and the gradient of the weight, those that are `wanted`; residual and gate are like x."""

    def cudnn_gradients(to_x: bool, to_weight: bool) -> tuple[Tensor | None, Tensor | None]:
        wanted = (to_x, to_weight, False)
        of_x, of_weight, _ = conv2d_gradients(gradient, x, weight, geometry, wanted)
        if of_x is not None and not (residual is None and gate is None):
            of_x = of_x.contiguous(memory_format=torch.channels_last)
            of_x = convolution_epilogue_(of_x, None, residual, relu=False, gate=gate)
        return of_x, of_weight

    def cudnn() -> Tensor:
        of_x, _ = cudnn_gradients(True, False)
        assert of_x is not None
        return of_x

    def triton() -> Tensor:
        return pointwise(gradient, weight[:, :, 0, 0].t(), None, residual, gate=gate)

    to_x, to_weight = wanted
    fuses = to_x and _is_pointwise(weight, geometry) and not (residual is None and gate is None)
    if not (fuses and _may_fuse(gradient, residual)):
        return cudnn_gradients(*wanted)
    key = ("input", *_sizes(gradient, weight), residual is None, gate is None)
    of_x = choice.run(key, {"cudnn": cudnn, "triton": triton})
    return of_x, cudnn_gradients(False, True)[1] if to_weight else None


def conv_moments(
    x: Tensor, weight: Tensor, geometry: Geometry, of_norm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """conv(x; weight), and its mean and variance over the batch [M]. of_norm: the norm's weight."""

    def cudnn() -> tuple[Tensor, Tensor, Tensor]:
        y = conv2d(x, weight, None, *geometry)
        return y, *norm.moments(y, of_norm)

    def triton() -> tuple[Tensor, Tensor, Tensor]:
        return norm.pointwise(x, weight[:, :, 0, 0], of_norm)

    if not (_may_fuse(x, None) and _is_pointwise(weight, geometry)):
        return cudnn()
    return choice.run(("moments", *_sizes(x, weight)), {"cudnn": cudnn, "triton": triton})


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    *,
    relu: bool = False,
    gate: Tensor | None = None,
) -> Tensor:
    """ReLU(x · weightᵀ + bias + residual), or gated: a 1×1 convolution and its epilogue, by Triton.

    x [B,N,h,w], weight [M,N] in x's dtype, bias [M]; residual and gate are like y [B,M,h,w], which
    is channels-last.
    """
    from fastass.kernels.convolution.fused import pointwise_gpu as gpu

    residual_rows, gate_rows = (None if t is None else contiguous_rows(t) for t in (residual, gate))
    rows = gpu.pointwise(contiguous_rows(x), weight, bias, residual_rows, gate_rows, relu)
    return map_of(rows, x.shape[0], x.shape[2:])


def _cudnn_fused(
    x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, residual: Tensor | None
) -> Tensor:
    """With a ReLU."""
    aten, end = torch.ops.aten, (bias, *geometry, 1)
    y: Tensor
    if residual is None:
        y = aten.cudnn_convolution_relu(x, weight, *end)
    else:
        y = aten.cudnn_convolution_add_relu(x, weight, residual, 1.0, *end)
    return y


def _may_fuse(x: Tensor, residual: Tensor | None) -> bool:
    return (
        choice.is_fused()
        and x.dtype in _HALF
        and (residual is None or residual.dtype == x.dtype)
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _is_pointwise(weight: Tensor, geometry: Geometry) -> bool:
    outputs, inputs, *kernel = weight.shape
    divisible = outputs % _CHANNELS == 0 and inputs % _CHANNELS == 0
    return kernel == [1, 1] and geometry == _PLAIN and divisible


def _sizes(x: Tensor, weight: Tensor) -> tuple[Any, ...]:
    return tuple(x.shape), tuple(weight.shape), x.dtype
