"""A convolution with a frozen batch norm folded into it, and what follows it, as one operator:

    y = ReLU(conv(x; weight · scale) + shift + residual)

Shapes: x [B,N,h,w], weight [M,N,kh,kw], scale and shift [M], which are constants; y and residual
[B,M,h',w']. Residual and ReLU are optional.

Saved for backward: x and y, which neighbouring layers keep anyway, and the weight without its
scale: their product is computed again, or shared by a whole step (`folding.py`). Inside
`recomputed_outputs` neither x nor y may be kept.
The gradient of the convolution and of the residual is g · [y > 0].
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastass.kernels import dispatch
from fastass.kernels.convolution.conv2d import Size, conv2d, conv2d_gradients, geometry_of
from fastass.kernels.convolution.epilogue import convolution_epilogue_
from fastass.kernels.convolution.folding import folded, shares_products
from fastass.kernels.convolution.fused.forms import conv_epilogue
from fastass.kernels.convolution.fused.weight_gradients import scaled
from fastass.kernels.convolution.recompute import (
    Recomputed,
    getter,
    mark,
    mark_of,
    recomputes_outputs,
)
from fastass.kernels.convolution.split_backward import Geometry


def conv_frozen_bn(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """y; differentiable once, by x, weight and residual.

    Args:
        x, weight, stride, padding, dilation: as of `conv2d`.
        scale, shift: the norm as y = scale · x + shift; no gradient reaches them.
        residual: added before the ReLU; of the dtype of y.
        relu: False leaves the sum as it is.

    Under autocast y has autocast's dtype. Under `torch.compile` it is plain operators, since a
    compiler fuses what follows a convolution itself and decides itself what to compute again.
    """
    geometry = geometry_of(stride, padding, dilation)
    if torch.compiler.is_compiling() or x.is_meta:
        y = conv2d(x, weight * scale[:, None, None, None], shift, *geometry)
        y = y if residual is None else y + residual
        return F.relu(y) if relu else y
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, residual = x.to(dtype), None if residual is None else residual.to(dtype)
    if not torch.is_grad_enabled():
        return _forward(x, weight, scale, shift, geometry, residual, relu)
    recomputed: Recomputed | None = None
    if residual is not None and recomputes_outputs():
        get_x, get_residual = getter(x), getter(residual)

        def compute() -> Tensor:
            return _forward(get_x(), weight, scale, shift, geometry, get_residual(), relu)

        recomputed = Recomputed(compute, device)
    constants = (scale, shift, geometry)
    y = _differentiable(x, weight, *constants, residual, relu, mark_of(x), recomputed)
    if recomputed is not None:
        mark(y, recomputed)
    return y


def _forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    geometry: Geometry,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """In the precision of x, which autocast has chosen before."""
    with torch.autocast(x.device.type, enabled=False):
        product = folded(weight, scale, x.dtype)
        if dispatch.resolve(x.device) == "triton":
            # cuDNN's convolution has no bias: torch adds it in a pass of its own.
            return conv_epilogue(x, product, shift, geometry, residual, relu)
        y = conv2d(x, product, shift.to(x.dtype), *geometry)
        # In place: a sum beside y would leave a hole in memory for each block.
        return convolution_epilogue_(y, None, residual, relu=relu)


class _ConvolutionFrozenNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        geometry: Geometry,
        residual: Tensor | None,
        relu: bool,
        recomputed_x: Recomputed | None,
        recomputed_y: Recomputed | None,
    ) -> Tensor:
        y = _forward(x, weight, scale, shift, geometry, residual, relu)
        if not relu:
            recomputed_y = None  # without a ReLU the backward does not need y
        for recomputed in (recomputed_x, recomputed_y):
            if recomputed is not None:
                recomputed.add_reader()
        kept_x = x if recomputed_x is None else None
        kept_y = y if relu and recomputed_y is None else None
        product = folded(weight, scale, x.dtype) if shares_products() else None
        ctx.save_for_backward(weight, scale, product, kept_x, kept_y)
        ctx.geometry, ctx.relu = geometry, relu
        ctx.weight = weight  # itself, for `scaled`
        ctx.recomputed_x, ctx.recomputed_y = recomputed_x, recomputed_y
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, product, x, y = ctx.saved_tensors
        if ctx.relu:
            y = ctx.recomputed_y.take() if ctx.recomputed_y else y
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
            del y  # it may be the last to hold a map that was computed again
        x = ctx.recomputed_x.take() if ctx.recomputed_x else x
        to_x, to_weight, *_ = ctx.needs_input_grad
        with torch.autocast(x.device.type, enabled=False):
            if product is None:
                product = folded(weight, scale, x.dtype)
            wanted = (to_x, to_weight, False)
            of_x, of_weight, _ = conv2d_gradients(gradient, x, product, ctx.geometry, wanted)
        if of_weight is not None:
            of_weight = scaled(of_weight, scale, ctx.weight)
        of_residual = gradient if ctx.needs_input_grad[5] else None
        return of_x, of_weight, None, None, None, of_residual, None, None, None


_differentiable: Callable[..., Tensor] = _ConvolutionFrozenNorm.apply
