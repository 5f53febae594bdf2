"""The discriminators: D_g on softmax maps, D_s on class means (FCSA) or on feature maps (CSA).

`frozen=True` runs a discriminator with the same weights but no gradient to them: frozen(D), through
which the adversarial terms of Eq. 11 reach the generator only.
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastass.kernels.convolution.conv2d import conv2d
from fastass.kernels.convolution.winograd.conv4x4_stride2 import (
    NEGATIVE_SLOPE,
    halve,
    halve_backward,
)


class GlobalDiscriminator(nn.Module):
    """D_g: five 4×4 convolutions of stride 2, leaky ReLU between.

    P [B,C,H,W] → logits [B,1,⌊H/32⌋,⌊W/32⌋]; maps under 32×32 raise ValueError.

    Channels are width, 2·width, 4·width, 8·width, 1 (64…512 in the paper).
    """

    def __init__(self, num_classes: int, width: int = 64) -> None:
        super().__init__()
        channels = (num_classes, width, 2 * width, 4 * width, 8 * width, 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in pairwise(channels)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, probabilities: Tensor, *, frozen: bool = False) -> Tensor:
        P = probabilities
        self._check(P)
        if not self._eager(P):
            return self._layer_by_layer(P, frozen)
        parameters = [p.detach() if frozen else p for p in self.layers.parameters()]
        logits: Tensor = _Layers.apply(P, self.layers, False, *parameters)
        return logits

    def twice(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """`(self(P, frozen=True), self(P.detach()))`: the logits that train G and those for D_g.

        They are the same numbers, so one forward computes both where torch runs eagerly in one
        precision; each has its own backward.
        """
        P = probabilities
        if not self._eager(P):
            return self(P, frozen=True), self(P.detach())
        self._check(P)
        to_generator, own = _Layers.apply(P, self.layers, True, *self.layers.parameters())
        return to_generator, own

    @staticmethod
    def _eager(P: Tensor) -> bool:
        return not (torch.is_autocast_enabled(P.device.type) or torch.compiler.is_compiling())

    def _layer_by_layer(self, x: Tensor, frozen: bool) -> Tensor:
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            if index:
                x = F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)
            weight, bias = layer.weight, layer.bias
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            x = conv2d(x, weight, bias, layer)
        return x

    @staticmethod
    def _check(probabilities: Tensor) -> None:
        height, width = probabilities.shape[-2:]
        if height < 32 or width < 32:
            raise ValueError(
                f"global discriminator: a {width}×{height} map is too small for five halvings; "
                "use images of at least 32×32"
            )


class _Layers(torch.autograd.Function):
    """The layers of D_g, once → logits, or, for `twice`, two equal ones. Then the gradient of the
    first goes to P alone, that of the second to the weights alone.
    """

    @staticmethod
    def forward(
        ctx: Any, P: Tensor, layers: nn.ModuleList, twice: bool, *parameters: Tensor
    ) -> Any:
        """parameters: those of `layers`, in their order."""
        inputs: list[Tensor] = []
        x = P
        for layer in layers:
            assert isinstance(layer, nn.Conv2d)
            inputs.append(x)
            x = halve(x, layer, leaky=len(inputs) < len(layers))
        ctx.save_for_backward(*inputs, *parameters)
        ctx.layers, ctx.twice = layers, twice
        ctx.set_materialize_grads(False)
        return (x, x.clone()) if twice else x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> Any:
        inputs = ctx.saved_tensors[: len(ctx.layers)]  # raises where a parameter has changed since
        to_P, _, _, to_weights, *_ = ctx.needs_input_grad
        if ctx.twice:
            ways = [(given[0], to_P, False), (given[1], False, to_weights)]
        else:
            ways = [(given[0], to_P, to_weights)]
        of_P: Tensor | None = None
        of_parameters: list[Tensor | None] = [None] * (2 * len(inputs))
        for gradient, to_x, to_weight in ways:
            for i in reversed(range(len(inputs))):
                if gradient is None or not (to_x or to_weight):
                    break
                gradient, of_weight, of_bias = halve_backward(
                    gradient,
                    inputs[i],
                    ctx.layers[i],
                    gated=i > 0,
                    to_x=to_x or i > 0,
                    to_weight=to_weight,
                )
                if to_weight:
                    of_parameters[2 * i : 2 * i + 2] = of_weight, of_bias
            if to_x:
                of_P = gradient
        return of_P, None, None, *of_parameters


class SemanticDiscriminator(nn.Module):
    """D_s: N → hidden → 2C, leaky ReLU between. Outputs k and k+C: class k from source and target.

    Parameters: weight1 [M,N], bias1 [M], weight2 [2C,M], bias2 [2C].
    """

    def __init__(self, features: int, num_classes: int, hidden: int = 1024) -> None:
        super().__init__()
        first, second = nn.Linear(features, hidden), nn.Linear(hidden, 2 * num_classes)
        self.weight1, self.bias1 = first.weight, first.bias
        self.weight2, self.bias2 = second.weight, second.bias

    def weights(self, frozen: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weights = (self.weight1, self.bias1, self.weight2, self.bias2)
        if not frozen:
            return weights
        a, b, c, d = (w.detach() for w in weights)
        return a, b, c, d


class FeatureDiscriminator(SemanticDiscriminator):
    """FCSA: an MLP on feature vectors. [..., N] → logits [..., 2C]."""

    def forward(self, vectors: Tensor, *, frozen: bool = False) -> Tensor:
        weight1, bias1, weight2, bias2 = self.weights(frozen)
        hidden = F.linear(vectors, weight1, bias1)
        hidden = F.leaky_relu(hidden, NEGATIVE_SLOPE, inplace=True)
        return F.linear(hidden, weight2, bias2)


class PixelDiscriminator(SemanticDiscriminator):
    """CSA: the same layers as 1×1 convolutions. F [B,N,h,w] → logits [B,2C,h,w]."""

    def forward(self, features: Tensor, *, frozen: bool = False) -> Tensor:
        weight1, bias1, weight2, bias2 = self.weights(frozen)
        hidden = F.conv2d(features, weight1[:, :, None, None], bias1)
        hidden = F.leaky_relu(hidden, NEGATIVE_SLOPE, inplace=True)
        return F.conv2d(hidden, weight2[:, :, None, None], bias2)
