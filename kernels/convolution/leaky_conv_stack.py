"""4×4 convolutions of stride 2 and padding 1, with leaky ReLUs between: the global discriminator.

    h_0 = x,   h_i = LeakyReLU(conv(h_{i−1}; w_i, b_i)) for 0 < i < L,   y = conv(h_{L−1}; w_L, b_L)

Shapes: x [B,C,H,W], w_i [O_i,O_{i−1},4,4] with O_0 = C, b_i [O_i] → y [B,O_L,⌊H/2^L⌋,⌊W/2^L⌋].

In eager mode the stack is one node of the graph, with a backward written out below: each leaky ReLU
and its gradient belong to the pass of the convolution beside it, and `leaky_conv_stack_twice`
computes the maps once for two losses. Under autocast all of it is in autocast's dtype, as the
operators alone would be. Under `torch.compile` it is torch's operators.
Saved for backward: x, every h_i and the parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastass.kernels.convolution.conv2d import conv2d
from fastass.kernels.convolution.winograd.conv4x4_stride2 import (
    conv4x4_stride2,
    conv4x4_stride2_gradients,
)


def leaky_conv_stack(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, negative_slope: float
) -> Tensor:
    """y; differentiable once. One weight and one bias per convolution, the first one's first."""
    if torch.compiler.is_compiling():
        return _layer_by_layer(x, weights, biases, negative_slope)
    tensors = _as_autocast([x, *weights, *biases])
    with torch.autocast(x.device.type, enabled=False):
        return _once(tensors[0], negative_slope, False, *tensors[1:])


def leaky_conv_stack_twice(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, negative_slope: float
) -> tuple[Tensor, Tensor]:
    """y twice: the first sends its gradient to x alone, the second to weights and biases alone.

    So the first is y with detached parameters and the second is y of the detached x.
    """
    if torch.compiler.is_compiling():
        constants = [w.detach() for w in weights], [b.detach() for b in biases]
        return (
            _layer_by_layer(x, *constants, negative_slope),
            _layer_by_layer(x.detach(), weights, biases, negative_slope),
        )
    tensors = _as_autocast([x, *weights, *biases])
    with torch.autocast(x.device.type, enabled=False):
        return _twice(tensors[0], negative_slope, True, *tensors[1:])


def _as_autocast(tensors: list[Tensor]) -> list[Tensor]:
    """In autocast's dtype where it is on."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [tensor.to(dtype) for tensor in tensors]


def _layer_by_layer(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], negative_slope: float
) -> Tensor:
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if i:
            x = F.leaky_relu(x, negative_slope, inplace=True)
        x = conv2d(x, weight, bias, stride=2, padding=1)
    return x


class _Stack(torch.autograd.Function):
    """y, or for `twice` y and its copy."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, negative_slope: float, twice: bool, *parameters: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """parameters: all weights, then all biases."""
        layers = len(parameters) // 2
        weights, biases = parameters[:layers], parameters[layers:]
        inputs: list[Tensor] = []
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            inputs.append(x)
            leaky = i + 1 < layers
            x = conv4x4_stride2(x, weight, bias, negative_slope if leaky else None)
        ctx.save_for_backward(*inputs, *weights)
        ctx.layers, ctx.negative_slope, ctx.twice = layers, negative_slope, twice
        ctx.set_materialize_grads(False)
        return (x, x.clone()) if twice else x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # Raises where a weight has changed since the forward.
        inputs, weights = ctx.saved_tensors[: ctx.layers], ctx.saved_tensors[ctx.layers :]
        to_x, _, _, *to_parameters = ctx.needs_input_grad
        trains = any(to_parameters)
        ways = [(gradients[0], to_x, trains and not ctx.twice)]
        if ctx.twice:
            ways.append((gradients[1], False, trains))
        of_x: Tensor | None = None
        of_weights: list[Tensor | None] = [None] * ctx.layers
        of_biases: list[Tensor | None] = [None] * ctx.layers
        for gradient, to_input, to_weight in ways:
            if gradient is None or not (to_input or to_weight):
                continue
            of_map: Tensor | None = gradient
            for i in reversed(range(ctx.layers)):
                assert of_map is not None
                of_map, of_weight, of_bias = conv4x4_stride2_gradients(
                    of_map,
                    inputs[i],
                    weights[i],
                    # inputs[i] came out of a leaky ReLU, whose input's gradient is wanted.
                    negative_slope=ctx.negative_slope if i else None,
                    to_x=to_input or i > 0,
                    to_weight=to_weight,
                )
                if to_weight:
                    of_weights[i], of_biases[i] = of_weight, of_bias
            if to_input:
                of_x = of_map
        return of_x, None, None, *of_weights, *of_biases


_once: Callable[..., Tensor] = _Stack.apply
_twice: Callable[..., tuple[Tensor, Tensor]] = _Stack.apply
