"""Triton kernel of the confusion counts: `fastass.kernels.upsample.confusion` has the contract."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.checks import MAX_CLASSES
from fastass.kernels.launch import cdiv, power_of_2


@triton.jit
def source(position, inputs, outputs, ALIGN: tl.constexpr):
    """⌊x⌋ and the weight of its successor for output positions; exact but for the last division."""
    if ALIGN:
        numerator = position * (inputs - 1)
        denominator = tl.maximum(outputs - 1, 1)
    else:
        numerator = tl.maximum((2 * position + 1) * inputs - outputs, 0)
        denominator = 2 * outputs
    low = tl.minimum(numerator // denominator, inputs - 1)
    weight = (numerator - low * denominator).to(tl.float32) / denominator
    return low, tl.minimum(weight, 1.0)


@triton.jit
def count_kernel(
    scores, labels, bins, stride_b, stride_c, stride_h, stride_w, in_height, in_width,
    height, width, CLASSES: tl.constexpr, BINS: tl.constexpr, IGNORE: tl.constexpr,
    ALIGN: tl.constexpr, PIXELS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """A program takes CHUNKS · PIXELS consecutive pixels of one image. Of the bins past CLASSES²,
    one takes the ignored pixels, the next the labels out of range."""
    image = tl.program_id(1).to(tl.int64)
    scores += image * stride_b
    labels += image * height * width
    counts = tl.zeros([BINS], tl.int32)
    for chunk in range(CHUNKS):
        pixel = (tl.program_id(0) * CHUNKS + chunk) * PIXELS + tl.arange(0, PIXELS)
        inside = pixel < height * width
        truth = tl.load(labels + pixel, mask=inside, other=IGNORE).to(tl.int32)
        y0, ty = source(tl.minimum(pixel // width, height - 1), in_height, height, ALIGN)
        x0, tx = source(pixel % width, in_width, width, ALIGN)
        y1, x1 = tl.minimum(y0 + 1, in_height - 1), tl.minimum(x0 + 1, in_width - 1)
        corner00 = scores + y0 * stride_h + x0 * stride_w
        corner01 = scores + y0 * stride_h + x1 * stride_w
        corner10 = scores + y1 * stride_h + x0 * stride_w
        corner11 = scores + y1 * stride_h + x1 * stride_w
        best = tl.full([PIXELS], float("-inf"), tl.float32)
        winner = tl.zeros([PIXELS], tl.int32)
        for c in range(CLASSES):
            upper = tl.load(corner00 + c * stride_c).to(tl.float32) * (1 - tx)
            upper += tl.load(corner01 + c * stride_c).to(tl.float32) * tx
            lower = tl.load(corner10 + c * stride_c).to(tl.float32) * (1 - tx)
            lower += tl.load(corner11 + c * stride_c).to(tl.float32) * tx
            value = upper * (1 - ty) + lower * ty
            winner = tl.where(value > best, c, winner)
            best = tl.maximum(best, value)
        index = tl.where(truth < CLASSES, truth * CLASSES + winner, CLASSES * CLASSES + 1)
        index = tl.where(truth == IGNORE, CLASSES * CLASSES, index)
        counts += tl.histogram(index, BINS)
    offsets = tl.arange(0, BINS)
    # Integer sums: the order of the atomics changes nothing.
    tl.atomic_add(bins + offsets, counts.to(tl.int64), mask=counts > 0)


def _constants(classes: int, ignore_index: int, align_corners: bool) -> dict[str, int]:
    bins = power_of_2(classes * classes + 2)
    return {
        "CLASSES": classes,
        "BINS": bins,
        "IGNORE": ignore_index,
        "ALIGN": int(align_corners),
        "PIXELS": 512,
        "CHUNKS": 16,
    }


def _warps(constants: dict[str, int]) -> int:
    """The counts of a program stay in registers: 8192 of them (the most classes) take 16 warps."""
    return 4 if constants["BINS"] <= 1024 else 16


def count(scores: Tensor, labels: Tensor, align_corners: bool, ignore_index: int) -> Tensor:
    """The Triton implementation. A label out of range turns every count into -1 (no host sync)."""
    batch, classes, in_height, in_width = scores.shape
    height, width = labels.shape[1:]
    constants = _constants(classes, ignore_index, align_corners)
    bins = torch.zeros(constants["BINS"], dtype=torch.int64, device=scores.device)
    grid = (cdiv(height * width, constants["PIXELS"] * constants["CHUNKS"]), batch)
    count_kernel[grid](
        scores, labels, bins, *scores.stride(), in_height, in_width, height, width,
        **constants, num_warps=_warps(constants),
    )  # fmt: skip
    counts = bins[: classes * classes].view(classes, classes)
    return torch.where(bins[classes * classes + 1] > 0, -1, counts)


def _aot(name: str, dtype: torch.dtype, classes: int, align_corners: bool) -> Launch:
    sizes = {"in_height": 91, "in_width": 161, "height": 720, "width": 1280}
    strides = {
        "stride_b": 91 * 161 * classes,
        "stride_c": 1,
        "stride_h": 161 * classes,
        "stride_w": classes,
    }
    pointers = {"scores": dtype, "labels": torch.uint8, "bins": torch.int64}
    constants = _constants(classes, 255, align_corners)
    given = {**pointers, **strides, **sizes}
    return Launch(name, count_kernel, given, constants, num_warps=_warps(constants))


AOT = (
    _aot("count fp32", torch.float32, 19, True),
    _aot("count bf16", torch.bfloat16, 19, True),
    _aot("count fp16 half-pixel", torch.float16, 19, False),
    _aot(f"count bf16 {MAX_CLASSES} classes", torch.bfloat16, MAX_CLASSES, False),
)
