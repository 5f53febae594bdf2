"""What the upsampling kernels share: the cells of the scores' grid, and how gradients are added up.

A cell is what lies between two neighbouring scores of an axis: every output position of the axis
is in one cell, and reads the scores at its two ends. Half-pixel grids have outputs beyond the first
and the last score too: cells of their own, in which one end has all the weight.

The gradient of a score is a sum over the (up to four) cells that touch it. Kernels store sums over
parts of a cell, and `gather_kernel` adds them up. No atomics, so every run gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.launch import cdiv
from fastass.kernels.upsample.grid import empty_gradient

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
GATHER = 512  # scores of a row that a program of the gather kernel adds up


def cell_count(inputs: int, align_corners: bool) -> int:
    """Cells of an axis with `inputs` scores."""
    return max(inputs - 1, 1) if align_corners else inputs + 1


def largest_cell(inputs: int, outputs: int, align_corners: bool) -> int:
    """An upper bound of the number of output positions in a cell of an axis, at least 1."""
    if align_corners:
        # The last cell has the last score's position too.
        return min(outputs, (outputs - 1) // max(inputs - 1, 1) + 1) if inputs > 1 else outputs
    return cdiv(outputs, inputs)


@triton.jit
def finite(score):
    """A score in float32. Minus infinity is made finite: the difference of two must be 0."""
    return tl.maximum(score.to(tl.float32), -1e30, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def cells(inputs, ALIGN: tl.constexpr):
    """`cell_count` in a kernel."""
    return tl.maximum(inputs - 1, 1) if ALIGN else inputs + 1


@triton.jit
def cell_at(position, inputs, outputs, ALIGN: tl.constexpr):
    """The cell of output positions."""
    if ALIGN:
        cell = position * (inputs - 1) // tl.maximum(outputs - 1, 1)
    else:
        cell = ((2 * position + 1) * inputs + outputs) // (2 * outputs)
    return tl.minimum(cell, cells(inputs, ALIGN) - 1)


@triton.jit
def lower_end(cell, inputs, ALIGN: tl.constexpr):
    """The score at the lower end of a cell; of a cell behind the last, the last score."""
    first = cell if ALIGN else tl.maximum(cell - 1, 0)
    return tl.minimum(first, inputs - 1)


@triton.jit
def upper_end(cell, inputs, ALIGN: tl.constexpr):
    """The score at the upper end of a cell."""
    return tl.minimum(cell + 1, inputs - 1) if ALIGN else tl.minimum(cell, inputs - 1)


@triton.jit
def first_output(cell, inputs, outputs, ALIGN: tl.constexpr):
    """The first output position of a cell, or of the cells behind it where it has none."""
    if ALIGN:
        first = (cell * (outputs - 1) + inputs - 2) // tl.maximum(inputs - 1, 1)
        last = (cell >= tl.maximum(inputs - 1, 1)) | (outputs == 1)
        first = tl.where(cell <= 0, 0, tl.where(last, outputs, first))
    else:
        first = (outputs * (2 * cell - 1) + inputs - 1) // (2 * inputs)
    return tl.minimum(tl.maximum(first, 0), outputs)


@triton.jit
def weight_in_cell(position, cell, inputs, outputs, ALIGN: tl.constexpr):
    """Weight of a cell's upper end at output positions, in [0, 1]; exact but for the last two
    operations."""
    if ALIGN:
        numerator = position * (inputs - 1) - cell * (outputs - 1)
        weight = numerator.to(tl.float32) * (1.0 / tl.maximum(outputs - 1, 1).to(tl.float32))
    else:
        numerator = (2 * position + 1) * inputs - outputs - 2 * outputs * (cell - 1)
        weight = numerator.to(tl.float32) * (1.0 / (2 * outputs).to(tl.float32))
        weight = tl.where(cell <= 0, 1.0, tl.where(cell >= inputs, 0.0, weight))
    return tl.minimum(tl.maximum(weight, 0.0), 1.0)


def empty_sums(scores: Tensor, align_corners: bool, rows: int, phases: int = 1) -> Tensor:
    """What `gather_kernel` adds up: gradients of both ends of the cells of an axis.

    float32 [B, strips, rows + 1, cell columns · phases, 2, C]: a strip is `rows` rows of cells,
    bounded by rows + 1 lines of scores; a phase is a part of a cell's columns; 2 is left and right.
    """
    batch, classes, height, width = scores.shape
    strips = cdiv(cell_count(height, align_corners), rows)
    columns = cell_count(width, align_corners) * phases
    shape = (batch, strips, rows + 1, columns, 2, classes)
    return torch.empty(shape, dtype=torch.float32, device=scores.device)


@triton.jit
def gather_kernel(
    sums, gradient, height, width, ROWS: tl.constexpr, PHASES: tl.constexpr,
    CLASSES: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds, for the scores of a row, what the cells around them hold. gradient: [B, h, w, C]."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y, image = tl.program_id(1), tl.program_id(2)
    c, x = at % CLASSES, at // CLASSES
    # The cells that begin at the score; those before end at it.
    row, column = (y, x) if ALIGN else (y + 1, x + 1)
    columns = cells(width, ALIGN)
    strips = tl.cdiv(cells(height, ALIGN), ROWS)
    value = tl.zeros((BLOCK,), tl.float32)
    for above in tl.static_range(2):
        # The line between two strips is in both: the last of one, the first of the next.
        strip = row // ROWS - above
        line = row % ROWS + above * ROWS
        known_line = (strip >= 0) & (strip < strips) & (line <= ROWS)
        place = ((image * strips + strip) * (ROWS + 1) + line).to(tl.int64) * columns
        for side in tl.static_range(2):
            cell = column - side
            known = known_line & (cell >= 0) & (cell < columns) & (x < width)
            for phase in tl.static_range(PHASES):
                segment = ((place + cell) * PHASES + phase) * 2 + side
                value += tl.load(sums + segment * CLASSES + c, mask=known, other=0.0)
    to = gradient + (image * height + y).to(tl.int64) * width * CLASSES
    tl.store(to + at, value, mask=x < width)


def gather(sums: Tensor, scores: Tensor, align_corners: bool, rows: int, phases: int = 1) -> Tensor:
    """Sums of the cells to the gradient [B, C, h, w], float32, channels last."""
    batch, classes, height, width = scores.shape
    gradient = empty_gradient(scores)
    gather_kernel[(cdiv(width * classes, GATHER), height, batch)](
        sums,
        gradient,
        height,
        width,
        ROWS=rows,
        PHASES=phases,
        CLASSES=classes,
        ALIGN=int(align_corners),
        BLOCK=GATHER,
        num_warps=4,
    )
    return gradient
