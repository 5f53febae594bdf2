"""A residual block with training batch norms as one node of the graph, for a GPU.

The gradient of the block's input is gated by the block before and summed in one pass, as in
`frozen.py`. The gates between its layers belong to the norms' passes, which compute y's sign again
from the norm's input.
Saved for backward: x, the input and the output of every norm but the last one's output, two vectors
per norm, and the parameters. The rounded weights are shared by a whole step (`folding.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastass.kernels.convolution.conv2d import geometry_of
from fastass.kernels.convolution.folding import rounded_weight
from fastass.kernels.convolution.fused.forms import conv_gradients, conv_moments
from fastass.kernels.convolution.fused.weight_gradients import scaled
from fastass.kernels.convolution.norm import op
from fastass.kernels.convolution.residual import order
from fastass.kernels.convolution.residual.layer import ConvNorm
from fastass.kernels.convolution.residual.ungated import gated, ungated


def residual_block(x: Tensor, layers: Sequence[ConvNorm], shortcut: ConvNorm | None) -> Tensor:
    """y of `block.residual_block`, for layers whose norms `op.fits`.

    Under autocast y has autocast's dtype.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    every = [*layers, *([] if shortcut is None else [shortcut])]
    source = ungated(x)
    parameters = [t for f in every for t in (f.weight, f.norm.weight, f.norm.bias)]  # type: ignore[union-attr]
    given = x if source is None else source
    return gated(_node(given, source is not None, len(layers), every, *parameters))


class _ResidualBlock(torch.autograd.Function):
    """y, whose gradient must come gated."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gates: bool,
        depth: int,
        layers: Sequence[ConvNorm],
        *parameters: Tensor,
    ) -> Tensor:
        """gates: the gradient of x is to be gated. layers: `depth`, and the shortcut if there is
        one; parameters: of each the convolution's weight, the norm's weight and bias."""
        products = [rounded_weight(layer.weight, x.dtype) for layer in layers]
        geometries = [geometry_of(f.stride, f.padding, f.dilation) for f in layers]
        kept: dict[int, tuple[Tensor, ...]] = {}  # of each norm: its input, mean, inverse

        def run(i: int, h: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
            norm = layers[i].norm
            assert isinstance(norm, nn.BatchNorm2d)
            z, mean, variance = conv_moments(h, products[i], geometries[i], norm.weight)
            y, inverse = op.apply(z, norm, mean, variance, residual, relu)
            kept[i] = z, mean, inverse
            return y

        with torch.autocast(x.device.type, enabled=False):
            maps, y = order.forward(x, depth, len(layers) > depth, run)
        vectors = [t for i in range(len(layers)) for t in kept[i]]
        ctx.save_for_backward(*maps, *vectors, *parameters, *products)
        ctx.gates, ctx.depth, ctx.geometries = gates, depth, geometries
        ctx.parameters = parameters  # themselves: what is kept with them is found again
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        depth, count = ctx.depth, len(ctx.geometries)
        saved = ctx.saved_tensors  # activation checkpointing lets them be read once
        maps, saved = saved[:depth], saved[depth:]
        kept, saved = saved[: 3 * count], saved[3 * count :]
        parameters, products = ctx.parameters, saved[3 * count :]
        x, to_x, to_parameters = maps[0], ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        of_parameters: list[Tensor | None] = [None] * (3 * count)

        def back(
            i: int,
            g: Tensor,
            h: Tensor,
            to_h: bool,
            residual: Tensor | None,
            gate: Tensor | None,
        ) -> Tensor | None:
            z, mean, inverse = kept[3 * i : 3 * i + 3]
            weight, scale, shift = parameters[3 * i : 3 * i + 3]
            relu = i < depth - 1  # the last layer's is gated already, the shortcut has none
            of_z, *of_norm = op.backward(g, z, scale, shift, mean, inverse, relu)
            for k, of_vector in enumerate(of_norm, start=1):
                of_parameters[3 * i + k] = of_vector if to_parameters[3 * i + k] else None
            of_h, of_weight = conv_gradients(
                of_z,
                h,
                products[i],
                ctx.geometries[i],
                (to_h, to_parameters[3 * i]),
                residual=residual,
                gate=gate,
            )
            if of_weight is not None:
                of_parameters[3 * i] = scaled(of_weight, None, weight)
            return of_h

        with torch.autocast(x.device.type, enabled=False):
            of_x = order.backward(gradient, [*maps], count > depth, to_x, ctx.gates, back)
        return of_x, None, None, None, *of_parameters


_node: Callable[..., Tensor] = _ResidualBlock.apply
