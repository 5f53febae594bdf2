"""Upsampled cross-entropy (Eq. 1), with P or not: plain torch, its compiled form, ours.

The size is that of training: two 1280×720 images (eight on a GPU), 19 classes, scores that differ
from pixel to pixel (real ones are smoother), labels in regions with about 15 % ignored.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from fastass.kernels.upsample import cross_entropy as op

from .conftest import EXPONENTIALS, Contest, Side
from .test_class_mean import street_labels

C, SIZE, LABEL_SIZE = 19, (91, 161), (720, 1280)


def reference(scores: Tensor, labels: Tensor, p: bool) -> tuple[Tensor, ...]:
    outputs = op.reference(scores, labels, align_corners=True, return_probabilities=p)
    return outputs if p else (outputs,)


def channels_first(scores: Tensor, labels: Tensor, p: bool) -> tuple[Tensor, ...]:
    """torch's log-softmax over a dimension that is not the last is faster than over 19 numbers."""
    return reference(scores.contiguous(), labels, p)


def fastass(scores: Tensor, labels: Tensor, p: bool) -> tuple[Tensor, ...]:
    outputs = op.upsample_cross_entropy(scores, labels, align_corners=True, return_probabilities=p)
    return outputs if p else (outputs,)


def side(function: Any, passes: str) -> Side:
    p = "with P" in passes

    def run(scores: Tensor, labels: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        if passes == "forward":
            with torch.no_grad():
                return function(scores, labels, p)
        outputs = function(scores, labels, p)
        total = outputs[0] + (outputs[1] * cotangent).sum() if p else outputs[0]
        return (*(x.detach() for x in outputs), *torch.autograd.grad(total, [scores]))

    return run


@pytest.mark.parametrize("passes", ["forward", "forward+backward", "forward+backward with P"])
def test_upsample_cross_entropy(
    contest: Contest, device: torch.device, dtype: torch.dtype, passes: str
) -> None:
    B = 8 if device.type == "cuda" else 2

    def make_inputs(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator(device).manual_seed(seed)
        scores = 2 * torch.randn(B, *SIZE, C, generator=generator, device=device)
        labels = street_labels(B, LABEL_SIZE, seed).to(device)
        cotangent = torch.full((), 1e-6, device=device, dtype=dtype)
        return scores.to(dtype).permute(0, 3, 1, 2).requires_grad_(), labels, cotangent

    probabilities = B * C * LABEL_SIZE[0] * LABEL_SIZE[1]
    p_bytes = probabilities * dtype.itemsize
    contest(
        op="upsample_cross_entropy",
        passes=passes,
        sides={
            "reference": side(reference, passes),
            "channels-first reference": side(channels_first, passes),
            "compiled reference": side(torch.compile(reference), passes),
            "fastass": side(fastass, passes),
        },
        make_inputs=make_inputs,
        bytes_moved=B * LABEL_SIZE[0] * LABEL_SIZE[1] + (2 * p_bytes if "with P" in passes else 0),
        cycles=probabilities / EXPONENTIALS,
        rtol=3e-2 if dtype == torch.bfloat16 else 1e-4,
        atol=1e-2 if dtype == torch.bfloat16 else 1e-4,
    )
