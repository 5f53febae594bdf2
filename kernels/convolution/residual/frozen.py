"""A residual block with frozen norms as one node of the graph, for a GPU.

The gradient of the block's input is gated by the block before (`ungated.py`), with the sum of its
two parts in one pass: dx = (dconv_1 + ds) · [x > 0], which reads three maps and writes one where a
sum and a ReLU's backward read four and write two.

Saved for backward: x, the output of every layer but the last, the weights; the folded weights where
a step shares them (`folding.py`). Not y: what gates its gradient is the layer that reads it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastass.kernels.convolution.conv2d import geometry_of
from fastass.kernels.convolution.folding import folded, shares_products
from fastass.kernels.convolution.fused.forms import conv_epilogue, conv_gradients
from fastass.kernels.convolution.fused.weight_gradients import scaled
from fastass.kernels.convolution.residual import order
from fastass.kernels.convolution.residual.layer import ConvNorm
from fastass.kernels.convolution.residual.ungated import gated, ungated
from fastass.kernels.convolution.split_backward import Geometry


class _Constants(NamedTuple):
    """Of a layer: what has no gradient."""

    scale: Tensor
    shift: Tensor
    geometry: Geometry


def residual_block(x: Tensor, layers: Sequence[ConvNorm], shortcut: ConvNorm | None) -> Tensor:
    """y of `block.residual_block`, for layers whose norms are frozen.

    Under autocast y has autocast's dtype.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    every = [*layers, *([] if shortcut is None else [shortcut])]
    constants = [_constants(layer) for layer in every]
    source = ungated(x)
    gates = source is not None
    weights = [layer.weight for layer in every]
    given = x if source is None else source
    return gated(_node(given, gates, len(layers), constants, *weights))


def _constants(layer: ConvNorm) -> _Constants:
    assert isinstance(layer.norm, tuple)
    return _Constants(*layer.norm, geometry_of(layer.stride, layer.padding, layer.dilation))


class _ResidualBlock(torch.autograd.Function):
    """y, whose gradient must come gated."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gates: bool,
        depth: int,
        constants: Sequence[_Constants],
        *weights: Tensor,
    ) -> Tensor:
        """gates: the gradient of x is to be gated. weights and constants: of `depth` layers and,
        if there is one more, of the shortcut."""
        with torch.autocast(x.device.type, enabled=False):
            products = [
                folded(weight, scale, x.dtype)
                for weight, (scale, _, _) in zip(weights, constants, strict=True)
            ]

            def run(i: int, h: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
                _, shift, geometry = constants[i]
                return conv_epilogue(h, products[i], shift, geometry, residual, relu)

            maps, y = order.forward(x, depth, len(weights) > depth, run)
        kept = products if shares_products() else [None] * len(products)
        ctx.save_for_backward(*maps, *weights, *kept)
        ctx.gates, ctx.depth, ctx.constants = gates, depth, constants
        ctx.weights = weights  # themselves, for `scaled`
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        depth, count = ctx.depth, len(ctx.constants)
        saved = ctx.saved_tensors  # activation checkpointing lets them be read once
        maps, saved = saved[:depth], saved[depth:]
        weights, products = saved[:count], saved[count:]
        x, to_x, to_weights = maps[0], ctx.needs_input_grad[0], ctx.needs_input_grad[4:]
        of_weights: list[Tensor | None] = [None] * count

        def back(
            i: int, g: Tensor, h: Tensor, to_h: bool, residual: Tensor | None, gate: Tensor | None
        ) -> Tensor | None:
            if 0 < i < depth:
                gate = h  # the ReLU between two layers
            scale, _, geometry = ctx.constants[i]
            product = products[i]
            if product is None:
                product = folded(weights[i], scale, h.dtype)
            wanted = (to_h, to_weights[i])
            of_h, of_weight = conv_gradients(
                g, h, product, geometry, wanted, residual=residual, gate=gate
            )
            if of_weight is not None:
                of_weights[i] = scaled(of_weight, scale, ctx.weights[i])
            return of_h

        with torch.autocast(x.device.type, enabled=False):
            of_x = order.backward(gradient, [*maps], count > depth, to_x, ctx.gates, back)
        return of_x, None, None, None, *of_weights


_node: Callable[..., Tensor] = _ResidualBlock.apply
