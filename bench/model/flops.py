"""Model FLOPs of the project's operators, which PyTorch's counter does not know.

`class_mean` has none: its sums over pixels have the form of products with one-hot labels.
"""

from collections.abc import Callable, Sequence
from typing import Any

Shape = Sequence[int]


def semantic_forward(features: Shape, weight1: Shape, weight2: Shape, trained: bool) -> int:
    """D_s on maps, Eq. 7–8: one forward, the hidden gradient, the weights' gradients if trained.

    features [B,N,h,w], weight1 [M,N], weight2 [2C,M].
    """
    B, N, h, w = features
    (M, _), outputs = weight1, weight2[0]
    pixels = B * h * w
    return 2 * pixels * M * N * (2 if trained else 1) + 2 * pixels * M * outputs * 3


def semantic_backward(hidden: Shape, features: Shape) -> int:
    """The gradient of the features: hidden [B·h·w,M] with weight1, features [B,N,h,w]."""
    pixels, M = hidden
    return 2 * pixels * M * features[1]


def of_operators() -> dict[Any, Callable[..., int]]:
    """For `FlopCounterMode(custom_mapping=…)`, by operator; arguments come as shapes."""
    import torch

    import fastass.kernels  # noqa: F401  registers the operators

    def forward(*given: Any, out_shape: Sequence[Shape], **more: Any) -> int:
        return semantic_forward(given[0], given[2], given[4], bool(out_shape[4][0]))

    def backward(*given: Any, out_shape: Shape, **more: Any) -> int:
        return semantic_backward(given[2], out_shape)

    operators = torch.ops.fastass
    return {
        operators.pixel_discriminator_loss: forward,
        operators.pixel_discriminator_loss_backward: backward,
    }
