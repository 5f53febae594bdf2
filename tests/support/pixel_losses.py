"""Random inputs of pixel_discriminator_loss, and its losses and gradients for them."""

from typing import Any

import torch
from torch import Tensor

from fastass import kernels

SMALL = (2, 24, 9, 13, 50, 71, 40, 7)
MODES = [(0, True), (0, False), (1, True), (1, False)]  # domain, adversarial
Weights = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Weights]:
    B, N, h, w, H, W, M, C = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int, scale: float) -> Tensor:
        return torch.randn(*size, generator=generator) * scale

    features = normal(B, N, h, w, scale=1).to(dtype)
    labels = torch.randint(0, C, (B, H, W), generator=generator).to(torch.uint8)
    labels[:, : H // 8] = 255
    labels[torch.rand(B, H, W, generator=generator) < 0.1] = 255
    weights = (
        normal(M, N, scale=N**-0.5).to(dtype),
        normal(M, scale=0.1),
        normal(2 * C, M, scale=M**-0.5),
        normal(2 * C, scale=0.1),
    )
    return features.contiguous(memory_format=torch.channels_last), labels, weights


def run(
    features: Tensor, labels: Tensor, weights: Weights, choice: str = "auto", **options: Any
) -> list[Tensor]:
    """Both losses, then the gradients of a weighted sum of them: features, weights."""
    leaves = [tensor.detach().requires_grad_() for tensor in (features, *weights)]
    kernels.use(choice)
    try:
        domain, adversarial = kernels.pixel_discriminator_loss(
            leaves[0], labels, *leaves[1:], **options
        )
        gradients = torch.autograd.grad(
            1.7 * domain + 0.3 * adversarial, leaves, allow_unused=True, materialize_grads=True
        )
    finally:
        kernels.use("auto")
    return [domain.detach(), adversarial.detach(), *gradients]


def double(weights: Weights) -> Weights:
    return tuple(weight.double() for weight in weights)  # type: ignore[return-value]


def error(actual: Tensor, truth: Tensor) -> float:
    """Root mean square: the largest single error of a gradient is that of a slope at zero."""
    return float((actual.double() - truth).square().mean().sqrt())
