"""Class means (Eq. 4): the per-class loop, its compiled form, one-hot matmul, index_add, ours.

The size is that of training: one 1280×720 image (eight on a GPU), ResNet features, 19 classes.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastass.kernels.class_mean import op
from fastass.kernels.nearest import nearest_labels

from .conftest import Contest, Side

N, C, SIZE, LABEL_SIZE = 2048, 19, (91, 161), (720, 1280)


def street_labels(batch: int, size: tuple[int, int], seed: int) -> Tensor:
    """Regions of a street scene's size with about 15 % ignored: blocks of one class each."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, C, (batch, 1, 12, 20), generator=generator)
    ignored = torch.rand(small.shape, generator=generator) < 0.15
    small = torch.where(ignored, 255, small).to(torch.float32)
    return torch.nn.functional.interpolate(small, size)[:, 0].to(torch.uint8)


def rows_and_classes(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """features as [B, h·w, N] and classes [B, h·w] with C for ignored pixels."""
    classes = nearest_labels(labels, (features.shape[2], features.shape[3])).flatten(1)
    rows = features.permute(0, 2, 3, 1).flatten(1, 2)
    return rows, torch.where(classes == 255, C, classes).long()


def one_hot_matmul(features: Tensor, labels: Tensor) -> Tensor:
    rows, classes = rows_and_classes(features, labels)
    onehot = torch.nn.functional.one_hot(classes, C + 1)[..., :C].to(rows.dtype)
    counts = onehot.sum(1, dtype=torch.float32).clamp(min=1)
    return (onehot.transpose(1, 2) @ rows).float() / counts[..., None]


def index_add(features: Tensor, labels: Tensor) -> Tensor:
    rows, classes = rows_and_classes(features, labels)
    B, _, N = rows.shape
    bins = (classes + (C + 1) * torch.arange(B, device=rows.device)[:, None]).flatten()
    sums = torch.zeros(B * (C + 1), N, device=rows.device)
    sums = sums.index_add(0, bins, rows.flatten(0, 1).float()).view(B, C + 1, N)
    counts = torch.zeros(B * (C + 1), device=rows.device).index_add(
        0, bins, torch.ones_like(bins, dtype=torch.float32)
    )
    return (sums / counts.view(B, C + 1, 1).clamp(min=1))[:, :C]


def forward_side(means: Any) -> Side:
    def run(features: Tensor, labels: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (means(features, labels),)

    return run


def training_side(means: Any) -> Side:
    def run(features: Tensor, labels: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        result = means(features, labels)
        return (result, *torch.autograd.grad(result, [features], gradient))

    return run


@pytest.mark.parametrize("passes", ["forward", "forward+backward"])
def test_class_mean(
    contest: Contest, device: torch.device, dtype: torch.dtype, passes: str
) -> None:
    B = 8 if device.type == "cuda" else 1

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(seed)
        features = torch.randn(B, *SIZE, N, generator=generator, device=device).to(dtype)
        gradient = torch.randn(B, C, N, generator=generator, device=device)
        labels = street_labels(B, LABEL_SIZE, seed).to(device)
        return features.permute(0, 3, 1, 2).requires_grad_(), labels, gradient

    def loop(features: Tensor, labels: Tensor) -> Tensor:
        return op.reference(features, labels, C)[0]

    side = forward_side if passes == "forward" else training_side
    pixels = B * SIZE[0] * SIZE[1]
    feature_bytes = pixels * N * dtype.itemsize
    contest(
        op="class_mean",
        passes=passes,
        sides={
            "reference": side(loop),
            "compiled reference": side(torch.compile(loop)),
            "one-hot matmul": side(one_hot_matmul),
            "index_add": side(index_add),
            "fastass": side(lambda features, labels: op.class_mean(features, labels, C)[0]),
        },
        make_inputs=make_inputs,
        bytes_moved=feature_bytes * (1 if passes == "forward" else 2),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-4,
        atol=1e-2 if dtype == torch.bfloat16 else 1e-5,
    )
