"""Evaluation counts: plain torch in both layouts, its compiled form, ours.

The size is that of evaluation: one 2048×1024 label image (eight on a GPU), 19 classes, scores that
differ from pixel to pixel (the slowest case: nothing can be skipped), labels in regions.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from .conftest import Contest
from .test_class_mean import street_labels

op = importlib.import_module("fastass.kernels.upsample_confusion")
C, SIZE, LABEL_SIZE = 19, (128, 256), (1024, 2048)


def predict(scores: Tensor) -> Tensor:
    wide = torch.nn.functional.interpolate(scores, LABEL_SIZE, mode="bilinear").argmax(1)
    return wide.to(torch.int32)


def count(predict: Callable[[Tensor], Tensor], scores: Tensor, labels: Tensor) -> Tensor:
    """Ignored pixels go to bins of their own: no copy of the valid ones."""
    bins = torch.where(labels == 255, C, labels.int()) * C + predict(scores)
    return torch.bincount(bins.flatten(), minlength=(C + 1) * C)[: C * C].view(C, C)


def test_upsample_confusion(contest: Contest, device: torch.device, dtype: torch.dtype) -> None:
    B = 8 if device.type == "cuda" else 1
    compiled = torch.compile(predict)

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(seed)
        scores = 2 * torch.randn(B, *SIZE, C, generator=generator, device=device)
        labels = street_labels(B, LABEL_SIZE, seed).to(device)
        return scores.to(dtype).permute(0, 3, 1, 2), labels

    contest(
        op="upsample_confusion",
        passes="forward",
        sides={
            "reference": lambda s, l: (op.reference(s, l, align_corners=False),),
            "channels-first": lambda s, l: (count(predict, s.contiguous(), l),),
            "compiled": lambda s, l: (count(compiled, s, l),),
            "fastass": lambda s, l: (op.upsample_confusion(s, l, align_corners=False),),
        },
        make_inputs=make_inputs,
        bytes_moved=B * LABEL_SIZE[0] * LABEL_SIZE[1],
        rtol=0,
        atol=1e-3,  # of the largest count: maxima that are equal but for rounding
    )
