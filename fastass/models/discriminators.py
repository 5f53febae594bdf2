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

from fastass.models.convolution import conv2d, gradients

NEGATIVE_SLOPE = 0.2


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
        self._check(probabilities)
        x = probabilities
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

    def twice(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """`(self(P, frozen=True), self(P.detach()))`: the logits that train G and those for D_g.

        They are the same numbers, so one forward computes both where torch runs eagerly in one
        precision; each has its own backward.
        """
        P = probabilities
        if torch.is_autocast_enabled(P.device.type) or torch.compiler.is_compiling():
            return self(P, frozen=True), self(P.detach())
        self._check(P)
        to_generator, own = _Twice.apply(P, self.layers, *self.layers.parameters())
        return to_generator, own

    @staticmethod
    def _check(probabilities: Tensor) -> None:
        height, width = probabilities.shape[-2:]
        if height < 32 or width < 32:
            raise ValueError(
                f"global discriminator: a {width}×{height} map is too small for five halvings; "
                "use images of at least 32×32"
            )


class _Twice(torch.autograd.Function):
    """The layers of D_g, once → two equal logits. The gradient of the first goes to P alone, that
    of the second to the weights alone.
    """

    @staticmethod
    def forward(ctx: Any, P: Tensor, layers: nn.ModuleList, *parameters: Tensor) -> Any:
        """parameters: those of `layers`, in their order."""
        inputs: list[Tensor] = []
        x = P
        for layer in layers:
            if inputs:
                x = F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)
            inputs.append(x)
            x = layer(x)
        ctx.save_for_backward(*inputs, *parameters[::2])
        ctx.layers = layers
        ctx.set_materialize_grads(False)
        return x, x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_generator: Tensor | None, own: Tensor | None) -> Any:
        n = len(ctx.layers)
        inputs, weights = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        of_parameters: list[Tensor | None] = [None] * (2 * n)
        for i in reversed(range(n)):
            x, weight, layer = inputs[i], weights[i], ctx.layers[i]
            if own is not None:
                own, *of_parameters[2 * i : 2 * i + 2] = gradients(
                    own, x, weight, layer, (i > 0, True, True)
                )
            if to_generator is not None:
                to_generator, _, _ = gradients(to_generator, x, weight, layer, (True, False, False))
            if i:
                own, to_generator = _before_leaky_relu(own, x), _before_leaky_relu(to_generator, x)
        return to_generator, None, *of_parameters


def _before_leaky_relu(gradient: Tensor | None, output: Tensor) -> Tensor | None:
    """The gradient of its input, given that of its output."""
    if gradient is None:
        return None
    found: Tensor = torch.ops.aten.leaky_relu_backward(gradient, output, NEGATIVE_SLOPE, True)
    return found


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
