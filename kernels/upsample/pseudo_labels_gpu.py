"""Triton kernel of the pseudo-labels: `fastass.kernels.upsample.pseudo_labels` has the contract."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.checks import MAX_CLASSES
from fastass.kernels.launch import cdiv
from fastass.kernels.upsample.confusion_gpu import source
from fastass.kernels.upsample.gpu.cells import finite

_PIXELS, _CHUNKS = 512, 4  # a program takes so many pixels, so many times


@triton.jit
def label_kernel(
    scores, winners, confident, threshold, stride_b, stride_c, stride_h, stride_w, in_height,
    in_width, height, width, CLASSES: tl.constexpr, ALIGN: tl.constexpr, PIXELS: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    """The classes of CHUNKS · PIXELS consecutive pixels of one image, and how many are confident.

    P of the largest score is 1 / Σ exp(score - largest); the sum follows the largest so far.
    """
    image = tl.program_id(1).to(tl.int64)
    scores += image * stride_b
    winners += image * height * width
    count = tl.zeros([PIXELS], tl.int32)
    for chunk in range(CHUNKS):
        pixel = (tl.program_id(0) * CHUNKS + chunk) * PIXELS + tl.arange(0, PIXELS)
        inside = pixel < height * width
        y0, ty = source(tl.minimum(pixel // width, height - 1), in_height, height, ALIGN)
        x0, tx = source(pixel % width, in_width, width, ALIGN)
        y1, x1 = tl.minimum(y0 + 1, in_height - 1), tl.minimum(x0 + 1, in_width - 1)
        corner00 = scores + y0 * stride_h + x0 * stride_w
        corner01 = scores + y0 * stride_h + x1 * stride_w
        corner10 = scores + y1 * stride_h + x0 * stride_w
        corner11 = scores + y1 * stride_h + x1 * stride_w
        largest = tl.full([PIXELS], float("-inf"), tl.float32)
        total = tl.zeros([PIXELS], tl.float32)
        winner = tl.zeros([PIXELS], tl.int32)
        for c in range(CLASSES):
            upper = finite(tl.load(corner00 + c * stride_c)) * (1 - tx)
            upper += finite(tl.load(corner01 + c * stride_c)) * tx
            lower = finite(tl.load(corner10 + c * stride_c)) * (1 - tx)
            lower += finite(tl.load(corner11 + c * stride_c)) * tx
            value = upper * (1 - ty) + lower * ty
            winner = tl.where(value > largest, c, winner)
            higher = tl.maximum(value, largest)
            total = total * tl.exp(largest - higher) + tl.exp(value - higher)
            largest = higher
        tl.store(winners + pixel, winner.to(tl.uint8), mask=inside)
        count += (inside & (1.0 / total > threshold)).to(tl.int32)
    program = image * tl.num_programs(0) + tl.program_id(0)
    tl.store(confident + program, tl.sum(count))


def pseudo_labels(
    scores: Tensor, height: int, width: int, threshold: float, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """The Triton implementation."""
    batch, classes, in_height, in_width = scores.shape
    programs = cdiv(height * width, _PIXELS * _CHUNKS)
    winners = scores.new_empty((batch, height, width), dtype=torch.uint8)
    confident = scores.new_empty((batch, programs), dtype=torch.int32)
    label_kernel[(programs, batch)](
        scores, winners, confident, threshold, *scores.stride(), in_height, in_width, height,
        width, CLASSES=classes, ALIGN=int(align_corners), PIXELS=_PIXELS, CHUNKS=_CHUNKS,
        num_warps=4,
    )  # fmt: skip
    return winners, confident.sum(1)


def _aot(name: str, dtype: torch.dtype, classes: int, align_corners: bool) -> Launch:
    given = {
        **{"scores": dtype, "winners": torch.uint8, "confident": torch.int32},
        **{"threshold": 0.8, "stride_b": 65 * 129 * classes, "stride_c": 1},
        **{"stride_h": 129 * classes, "stride_w": classes},
        **{"in_height": 65, "in_width": 129, "height": 512, "width": 1024},
    }
    constants = {
        "CLASSES": classes,
        "ALIGN": int(align_corners),
        "PIXELS": _PIXELS,
        "CHUNKS": _CHUNKS,
    }
    return Launch(name, label_kernel, given, constants, num_warps=4)


AOT = (
    _aot("label fp32", torch.float32, 19, True),
    _aot("label bf16", torch.bfloat16, 19, True),
    _aot("label fp16 half-pixel", torch.float16, 19, False),
    _aot(f"label bf16 {MAX_CLASSES} classes", torch.bfloat16, MAX_CLASSES, True),
)
