"""Evaluation counts: plain torch in either layout, its compiled form, ours.

The size is that of evaluation: one 2048×1024 label image (eight on a GPU), 19 classes, labels in
regions. Scores: `noise` differs from pixel to pixel, which no trained network does (the slowest
case: no class can be left out anywhere); `regions` are smooth, with some noise, as a network's are.
Both layouts, `channels-first` (torch's default) and `channels-last` (the engine's), since plain
torch is far slower in the first; its conversion to the other layout is one of the alternatives.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastass.kernels.upsample import confusion as op

from .conftest import OPERATIONS, Contest
from .test_class_mean import street_labels

C, SIZE, LABEL_SIZE = 19, (128, 256), (1024, 2048)


def predict(scores: Tensor) -> Tensor:
    wide = torch.nn.functional.interpolate(scores, LABEL_SIZE, mode="bilinear").argmax(1)
    return wide.to(torch.int32)


def count(predict: Callable[[Tensor], Tensor], scores: Tensor, labels: Tensor) -> Tensor:
    """Ignored pixels go to bins of their own: no copy of the valid ones."""
    bins = torch.where(labels == 255, C, labels.int()) * C + predict(scores)
    return torch.bincount(bins.flatten(), minlength=(C + 1) * C)[: C * C].view(C, C)


@pytest.mark.parametrize("content", ["noise", "regions"])
@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
def test_upsample_confusion(
    contest: Contest, device: torch.device, dtype: torch.dtype, layout: str, content: str
) -> None:
    B = 8 if device.type == "cuda" else 1
    compiled = torch.compile(predict)
    first, last = torch.contiguous_format, torch.channels_last
    own, other = (first, last) if layout == "channels-first" else (last, first)

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(seed)
        scores = 2 * torch.randn(B, C, *SIZE, generator=generator, device=device)
        if content == "regions":
            coarse = 6 * torch.randn(B, C, 12, 20, generator=generator, device=device)
            smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")
            scores = smooth + 0.15 * scores
        labels = street_labels(B, LABEL_SIZE, seed).to(device)
        return scores.to(dtype).contiguous(memory_format=own), labels

    contest(
        op="upsample_confusion",
        passes=f"forward, {layout}, {content}",
        sides={
            "reference": lambda s, l: (op.reference(s, l, align_corners=False),),
            "other layout": lambda s, l: (count(predict, s.contiguous(memory_format=other), l),),
            "compiled": lambda s, l: (count(compiled, s, l),),
            "fastass": lambda s, l: (op.upsample_confusion(s, l, align_corners=False),),
        },
        make_inputs=make_inputs,
        bytes_moved=B * LABEL_SIZE[0] * LABEL_SIZE[1],
        # A product, an addition, a comparison and two selections for each class of each pixel.
        cycles=5 * C * B * LABEL_SIZE[0] * LABEL_SIZE[1] / OPERATIONS,
        rtol=0,
        atol=1e-3,  # of the largest count: maxima that are equal but for rounding
    )
