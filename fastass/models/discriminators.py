"""The discriminators: D_g on softmax maps, D_s on class means (FCSA) or on feature maps (CSA).

`frozen=True` runs a discriminator with the same weights but no gradient to them: frozen(D), through
which the adversarial terms of Eq. 11 reach the generator only.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass import kernels

NEGATIVE_SLOPE = 0.2  # of every leaky ReLU


class GlobalDiscriminator(nn.Module):
    """D_g: five 4×4 convolutions of stride 2, with leaky ReLUs between them.

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
        weights, biases = self._parameters_of_layers()
        if frozen:
            weights, biases = [w.detach() for w in weights], [b.detach() for b in biases]
        return kernels.leaky_conv_stack(
            probabilities, weights, biases, negative_slope=NEGATIVE_SLOPE
        )

    def twice(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """`(self(P, frozen=True), self(P.detach()))`: the logits that train G and those for D_g.

        They are the same numbers. One forward computes both (two under `torch.compile`); each has
        its own backward.
        """
        self._check(probabilities)
        return kernels.leaky_conv_stack_twice(
            probabilities, *self._parameters_of_layers(), negative_slope=NEGATIVE_SLOPE
        )

    def _parameters_of_layers(self) -> tuple[list[Tensor], list[Tensor]]:
        """All weights, all biases."""
        weights: list[Tensor] = [layer.get_parameter("weight") for layer in self.layers]
        biases: list[Tensor] = [layer.get_parameter("bias") for layer in self.layers]
        return weights, biases

    @staticmethod
    def _check(probabilities: Tensor) -> None:
        height, width = probabilities.shape[-2:]
        if height < 32 or width < 32:
            raise ValueError(
                f"global discriminator: a {width}×{height} map is too small for five convolutions "
                "of stride 2; use images of at least 32×32"
            )


class SemanticDiscriminator(nn.Module):
    """D_s: N → hidden → 2C, with a leaky ReLU between. Outputs k and k+C: class k from the source
    and from the target.

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
