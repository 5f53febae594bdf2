"""What the upsampling kernels share: a tile is a block of neighbouring cells of the scores' grid.

A program takes the pixels between two rows of S, for a block of cells: the corner scores stay in
registers, and the gradient comes out as four sums for each cell, one for each corner, which
`gather_kernel` adds up. No atomics, so every run gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def first_output(cell, inputs, outputs, ALIGN: tl.constexpr):
    """The first output position of a cell: those before lie left of input `cell`."""
    if ALIGN:
        first = (cell * (outputs - 1) + inputs - 2) // tl.maximum(inputs - 1, 1)
        first = tl.where(outputs > 1, first, outputs)
    else:
        first = (outputs * (2 * cell + 1) + inputs - 1) // (2 * inputs)
    cells = tl.maximum(inputs - 1, 1)
    first = tl.where(cell >= cells, outputs, tl.minimum(first, outputs))
    return tl.where(cell <= 0, 0, first)


@triton.jit
def weight_in_cell(position, cell, inputs, outputs, ALIGN: tl.constexpr):
    """t in [0, 1] of an output position in its cell; exact but for the division."""
    if ALIGN:
        numerator = position * (inputs - 1) - cell * (outputs - 1)
        denominator = tl.maximum(outputs - 1, 1)
    else:
        numerator = (2 * position + 1) * inputs - outputs - 2 * outputs * cell
        denominator = 2 * outputs
    weight = numerator.to(tl.float32) / denominator
    weight = tl.minimum(tl.maximum(weight, 0.0), 1.0)
    return weight * (inputs > 1)


@triton.jit
def corners(
    scores, row, column, c, stride_c, stride_h, stride_w, height, width, CLASSES: tl.constexpr
):  # fmt: skip
    """value(tx, ty) = p0 + tx p1 + ty (p2 + tx p3), each [cells, classes]. Minus infinity is made
    finite: the difference of two must be 0. So are the scores of the classes that pad."""
    top = scores + row * stride_h + c[None, :] * stride_c
    bottom = scores + tl.minimum(row + 1, height - 1) * stride_h + c[None, :] * stride_c
    left = tl.minimum(column, width - 1)[:, None] * stride_w
    right = tl.minimum(column + 1, width - 1)[:, None] * stride_w
    known = (c < CLASSES)[None, :] & (column < width)[:, None]
    s00 = tl.load(top + left, mask=known, other=float("-inf")).to(tl.float32)
    s01 = tl.load(top + right, mask=known, other=float("-inf")).to(tl.float32)
    s10 = tl.load(bottom + left, mask=known, other=float("-inf")).to(tl.float32)
    s11 = tl.load(bottom + right, mask=known, other=float("-inf")).to(tl.float32)
    s00 = tl.where(s00 < -1e30, -1e30, s00)
    s01 = tl.where(s01 < -1e30, -1e30, s01)
    s10 = tl.where(s10 < -1e30, -1e30, s10)
    s11 = tl.where(s11 < -1e30, -1e30, s11)
    return s00, s01 - s00, s10 - s00, (s11 - s10) - (s01 - s00)


@triton.jit
def store_sums(
    sums, image, row, column, c, cell_rows, cell_columns, g, gx, gy, gxy, CLASSES: tl.constexpr
):  # fmt: skip
    """The gradients of a cell's four corners, [B, cell rows, cell columns, 4, C]."""
    cell = (image * cell_rows + row) * cell_columns + column
    to = sums + cell[:, None].to(tl.int64) * (4 * CLASSES) + c[None, :]
    known = (c < CLASSES)[None, :] & (column < cell_columns)[:, None]
    tl.store(to, g - gx - gy + gxy, mask=known)
    tl.store(to + CLASSES, gx - gxy, mask=known)
    tl.store(to + 2 * CLASSES, gy - gxy, mask=known)
    tl.store(to + 3 * CLASSES, gxy, mask=known)


@triton.jit
def gather_kernel(sums, gradient, total, height, width, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """Adds, for every score, what its four cells hold for it. gradient: [B, h, w, C]."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = at % CLASSES
    x = at // CLASSES % width
    y = at // CLASSES // width % height
    image = at // CLASSES // width // height
    cell_rows, cell_columns = tl.maximum(height - 1, 1), tl.maximum(width - 1, 1)
    value = tl.zeros((BLOCK,), tl.float32)
    for corner in tl.static_range(4):
        row, column = y - corner // 2, x - corner % 2
        known = (row >= 0) & (row < cell_rows) & (column >= 0) & (column < cell_columns)
        cell = (image * cell_rows + row) * cell_columns + column
        from_ = sums + (cell * 4 + corner) * CLASSES + c
        value += tl.load(from_, mask=known & (at < total), other=0.0)
    tl.store(gradient + at, value, mask=at < total)
