"""P of upsampled scores, given log2 Σ exp of each pixel: P = 2^(value · log2 e - logarithm).

A program takes a piece of P's memory in each output row of a few rows of cells: its lanes hold
neighbouring elements, whatever their pixels, so that P is stored in 16-byte pieces.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.launch import cdiv
from fastass.kernels.upsample.gpu.cells import (
    LOG2E,
    cell_at,
    cell_count,
    cells,
    finite,
    first_output,
    lower_end,
    upper_end,
    weight_in_cell,
)
from fastass.kernels.upsample.grid import empty_probabilities

BLOCK = 1024  # elements of a program in an output row, 8 per lane: 16 bytes
ROWS = 4  # cell rows of a program


@triton.jit
def _line(line, left, right, tx, known):
    a = finite(tl.load(line + left, mask=known, other=0.0))
    b = finite(tl.load(line + right, mask=known, other=0.0))
    return (a + tx * (b - a)) * LOG2E


@triton.jit
def probabilities_kernel(
    scores, logarithms, probabilities, stride_b, stride_c, stride_h, stride_w, in_height, in_width,
    height, width, CLASSES: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    strip, image = tl.program_id(1), tl.program_id(2)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = at < width * CLASSES
    x = at // CLASSES
    cell = cell_at(x, in_width, width, ALIGN)
    tx = weight_in_cell(x, cell, in_width, width, ALIGN)
    scores += image.to(tl.int64) * stride_b
    left = lower_end(cell, in_width, ALIGN) * stride_w + at % CLASSES * stride_c
    right = upper_end(cell, in_width, ALIGN) * stride_w + at % CLASSES * stride_c
    line = scores + lower_end(strip * ROWS, in_height, ALIGN) * stride_h
    upper = _line(line, left, right, tx, known)
    for row in range(strip * ROWS, tl.minimum(strip * ROWS + ROWS, cells(in_height, ALIGN))):
        line = scores + upper_end(row, in_height, ALIGN) * stride_h
        lower = _line(line, left, right, tx, known)
        for y in range(
            first_output(row, in_height, height, ALIGN),
            first_output(row + 1, in_height, height, ALIGN),
        ):
            ty = weight_in_cell(y, row, in_height, height, ALIGN)
            first = (image * height + y).to(tl.int64) * width
            logarithm = tl.load(logarithms + first + x, mask=known, other=0.0)
            p = tl.exp2(upper + ty * (lower - upper) - logarithm)
            to = probabilities + first * CLASSES
            tl.store(to + at, p.to(probabilities.dtype.element_ty), mask=known)
        upper = lower


def write_probabilities(scores: Tensor, logarithms: Tensor, align_corners: bool) -> Tensor:
    """P [B, C, H, W], channels last, in the dtype of scores; logarithms float32 [B, H, W]."""
    batch, classes, in_height, in_width = scores.shape
    height, width = logarithms.shape[1:]
    out = empty_probabilities(scores, (height, width))
    strips = cdiv(cell_count(in_height, align_corners), ROWS)
    grid = (cdiv(width * classes, BLOCK), strips, batch)
    probabilities_kernel[grid](
        scores, logarithms, out, *scores.stride(), in_height, in_width, height, width,
        CLASSES=classes, ALIGN=int(align_corners), BLOCK=BLOCK, ROWS=ROWS, num_warps=4,
    )  # fmt: skip
    return out
