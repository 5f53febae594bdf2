"""A convolution with a frozen norm folded into it, and what follows it, as one node of the graph:

    y = ReLU(conv(x; weight · scale) + shift + residual)

x [B,N,h,w], weight [M,N,k,k], scale and shift [M], constants; y and residual [B,M,h',w'].
Residual and ReLU are optional. Backward: g' = g [y > 0] is the gradient of the residual and of the
convolution. Saved for it are x and y, which neighbouring layers keep anyway, and no second copy of
the weight: its product with the scale is computed again. In place of x or y it may have an `Again`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastass.kernels import dispatch
from fastass.kernels.convolution.conv2d import conv2d, gradients
from fastass.kernels.convolution.epilogue import convolution_epilogue_
from fastass.kernels.convolution.recompute import Again


def folded_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    like: nn.Conv2d,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
    x_again: Again | None = None,
    y_again: Again | None = None,
) -> Tensor:
    """y. `like` has stride, padding and dilation; `x_again`, `y_again`: how a backward gets x, y.

    A compiler fuses what follows the convolution itself, and decides what it computes again.
    """
    if torch.compiler.is_compiling() or x.is_meta:
        y = conv2d(x, _scaled(weight, scale), shift, like)
        y = y if residual is None else y + residual
        return F.relu(y) if relu else y
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, residual = x.to(dtype), None if residual is None else residual.to(dtype)
    if not torch.is_grad_enabled():
        return _forward(x, weight, scale, shift, like, residual, relu)
    constants = (scale, shift, like)
    return _FoldedConvolution.apply(x, weight, *constants, residual, relu, x_again, y_again)


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale[:, None, None, None]


def _forward(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    like: nn.Conv2d,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """In the precision of x, which autocast has chosen before."""
    # cuDNN's convolution has no bias: torch adds it in a pass of its own.
    apart = dispatch.resolve(x.device) == "triton"
    with torch.autocast(x.device.type, enabled=False):
        product = _scaled(weight, scale).to(x.dtype)
        y = conv2d(x, product, None if apart else shift.to(x.dtype), like)
        # In place: a sum beside y would leave a hole in memory for each block.
        return convolution_epilogue_(y, shift if apart else None, residual, relu=relu)


class _FoldedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        like: nn.Conv2d,
        residual: Tensor | None,
        relu: bool,
        x_again: Again | None,
        y_again: Again | None,
    ) -> Tensor:
        y = _forward(x, weight, scale, shift, like, residual, relu)
        kept_y = y if relu and y_again is None else None
        ctx.save_for_backward(weight, scale, None if x_again else x, kept_y)
        ctx.like, ctx.relu, ctx.x_again, ctx.y_again = like, relu, x_again, y_again
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, x, y = ctx.saved_tensors
        if ctx.relu:
            y = ctx.y_again.take() if ctx.y_again else y
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
            del y  # it may be the last to hold a map that was computed again
        x = ctx.x_again.take() if ctx.x_again else x
        to_x, to_weight, *_ = ctx.needs_input_grad
        with torch.autocast(x.device.type, enabled=False):
            product = _scaled(weight, scale).to(x.dtype)
            wanted = (to_x, to_weight, False)
            of_x, of_weight, _ = gradients(gradient, x, product, ctx.like, wanted)
        if of_weight is not None:
            of_weight = of_weight.to(weight.dtype).mul_(scale[:, None, None, None])
        of_residual = gradient if ctx.needs_input_grad[5] else None
        return of_x, of_weight, None, None, None, of_residual, None, None, None
