"""The pixel discriminator's losses (Eq. 7–8) of a source image: two plain passes, and ours.

2048 → 1024 → 2·19 at every pixel of the features of one 1280×720 image (eight on a GPU), of whose
pixels about 15 % are ignored.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastass.kernels.pixel_discriminator_loss import op

from .conftest import Contest, Side
from .test_class_mean import LABEL_SIZE, SIZE, C, N, street_labels

M = 1024


def linear_layers(
    features: Tensor, labels: Tensor, *weights: Tensor, domain: int, adversarial: bool
) -> tuple[Tensor, Tensor]:
    """The reference with matrix products in place of 1×1 convolutions."""
    rows = features.permute(0, 2, 3, 1)
    classes = op.nearest_labels(labels, (rows.shape[1], rows.shape[2])).long().flatten()
    valid = classes != 255

    def loss(rows: Tensor, weights: list[Tensor], shift: int) -> Tensor:
        hidden = torch.nn.functional.linear(rows.flatten(0, 2), weights[0], weights[1])
        hidden = torch.nn.functional.leaky_relu(hidden, 0.2)
        logits = torch.nn.functional.linear(hidden, weights[2], weights[3]).float()
        target = torch.where(valid, classes + shift, -100)
        return torch.nn.functional.cross_entropy(logits, target)

    return (
        loss(rows.detach(), list(weights), C * domain),
        loss(rows, [weight.detach() for weight in weights], C),
    )


def forward_side(losses: Any) -> Side:
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return losses(*inputs, domain=0, adversarial=True)

    return run


def training_side(losses: Any) -> Side:
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        domain, adversarial = losses(*inputs, domain=0, adversarial=True)
        wrt = [inputs[0], *inputs[2:]]
        # The weights of Eq. 11: L_sd in full, L_sadv small.
        return domain, adversarial, *torch.autograd.grad(domain + 0.01 * adversarial, wrt)

    return run


@pytest.mark.parametrize("passes", ["forward", "forward+backward"])
def test_pixel_discriminator_loss(
    contest: Contest, device: torch.device, dtype: torch.dtype, passes: str
) -> None:
    B = 8 if device.type == "cuda" else 1

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            values = torch.randn(*shape, generator=generator, device=device) * scale
            return values.to(dtype)

        features = normal(B, *SIZE, N).permute(0, 3, 1, 2).requires_grad_()
        labels = street_labels(B, LABEL_SIZE, seed).to(device)
        weights = (
            normal(M, N, scale=N**-0.5),
            normal(M, scale=0.1),
            normal(2 * C, M, scale=M**-0.5),
            normal(2 * C, scale=0.1),
        )
        return features, labels, *(weight.requires_grad_() for weight in weights)

    side = forward_side if passes == "forward" else training_side
    pixels = B * SIZE[0] * SIZE[1]
    training = passes != "forward"
    contest(
        op="pixel_discriminator_loss",
        passes=passes,
        sides={
            "reference": side(op.reference),
            "compiled reference": side(torch.compile(op.reference)),
            "linear layers": side(linear_layers),
            "fastass": side(op.pixel_discriminator_loss),
        },
        make_inputs=make_inputs,
        bytes_moved=pixels * N * dtype.itemsize * (2 if training else 1),
        # Over the 85 % of valid pixels, each product once: forward; both gradients.
        flops=int(0.85 * 2 * pixels * M * (N * (3 if training else 1) + 2 * C)),
        norm=0.1 if dtype == torch.bfloat16 else 5e-3,
    )
