"""`multi_dilation_conv` on a GPU: one product of x with the taps of all weights, then a gather.

x is read once, where each dilated convolution would read it, and its gradient is written once.
Columns are padded to a multiple of 8, which matrix units need. Each tap's score is rounded to the
dtype of x; the sum of taps and biases is taken in float32.
Saved for backward: x and the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastass.kernels.convolution.folding import shared
from fastass.kernels.layout import contiguous_rows, map_of, rows_of

BRANCHES = 4  # the most dilations that the kernels take
_ALIGNED = 8  # columns


def one_product(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    """y [B,C,h,w], channels-last; differentiable once. Under autocast in its dtype."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    return _node(x, tuple(dilations), *weights, *biases)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dilations: Sequence[int], *parameters: Tensor) -> Tensor:
        """parameters: all weights, then all biases."""
        from fastass.kernels.convolution.taps import gpu

        count = len(dilations)
        weights, biases = parameters[:count], parameters[count:]
        B, _, *size = x.shape
        with torch.autocast(x.device.type, enabled=False):
            columns = _columns(weights, x.dtype)
            rows = rows_of(x.contiguous(memory_format=torch.channels_last))
            bias = torch.stack(biases).sum(dim=0)
            y = gpu.gather(rows @ columns.t(), bias, (B, *size), dilations)
        ctx.save_for_backward(x, *weights)
        ctx.dilations = dilations
        return map_of(y, B, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from fastass.kernels.convolution.taps import gpu

        x, *weights = ctx.saved_tensors
        count, (B, _, *size) = len(weights), x.shape
        to_x, _, *to_parameters = ctx.needs_input_grad
        of_x = None
        of_weights: list[Tensor | None] = [None] * count
        of_bias = None
        with torch.autocast(x.device.type, enabled=False):
            rows = contiguous_rows(gradient)
            columns = _columns(weights, x.dtype)
            of_taps = gpu.scatter(rows, columns.shape[0], (B, *size), ctx.dilations)
            if to_x:
                of_x = map_of(of_taps @ columns, B, size)
            if any(to_parameters[:count]):
                inputs = rows_of(x.contiguous(memory_format=torch.channels_last))
                of_weights = [*_of_weights(of_taps.t() @ inputs, weights)]
            if any(to_parameters[count:]):
                of_bias = rows.sum(dim=0, dtype=torch.float32).to(weights[0].dtype)
        return of_x, None, *of_weights, *[of_bias] * count


_node: Callable[..., Tensor] = _Product.apply


@torch.no_grad()
def _columns(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """[S, N]: of each weight [C,N,3,3] the taps in order, of each tap its classes; then zeros."""

    def make() -> Tensor:
        each = [weight.permute(2, 3, 0, 1).flatten(0, 1) for weight in weights]
        taps = torch.cat(each).flatten(0, 1)
        count = taps.shape[0]
        made = taps.new_zeros((-(-count // _ALIGNED) * _ALIGNED, taps.shape[1]), dtype=dtype)
        made[:count] = taps
        return made

    return shared(make, dtype, *weights)


def _of_weights(of_columns: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    classes, inputs = weights[0].shape[:2]
    every = of_columns[: 9 * classes * len(weights)].view(len(weights), 3, 3, classes, inputs)
    return [
        # In the weight's own memory layout and dtype.
        torch.empty_like(weight).copy_(each.permute(2, 3, 0, 1))
        for weight, each in zip(weights, every, strict=True)
    ]
