"""Softmax and cross-entropy of upsampled scores, more than 32 classes: a tile of cells and classes.

A program takes the pixels between two lines of the scores' grid, for a block of cells: the corner
scores stay in registers, and the gradient comes out as four sums for each cell, one for each corner
(a strip of one row of cells).
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastass.kernels.upsample.gpu.cells import (
    LOG2E,
    cells,
    finite,
    first_output,
    lower_end,
    upper_end,
    weight_in_cell,
)


@triton.jit
def _corners(
    scores, row, column, c, stride_c, stride_h, stride_w, height, width, CLASSES: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """value(tx, ty) = p0 + tx p1 + ty (p2 + tx p3), each [cells, classes]. The scores of the
    classes that pad are low, and finite."""
    top = scores + lower_end(row, height, ALIGN) * stride_h + c[None, :] * stride_c
    bottom = scores + upper_end(row, height, ALIGN) * stride_h + c[None, :] * stride_c
    left = lower_end(column, width, ALIGN)[:, None] * stride_w
    right = upper_end(column, width, ALIGN)[:, None] * stride_w
    known = (c < CLASSES)[None, :] & (column < cells(width, ALIGN))[:, None]
    s00 = finite(tl.load(top + left, mask=known, other=float("-inf")))
    s01 = finite(tl.load(top + right, mask=known, other=float("-inf")))
    s10 = finite(tl.load(bottom + left, mask=known, other=float("-inf")))
    s11 = finite(tl.load(bottom + right, mask=known, other=float("-inf")))
    return s00, s01 - s00, s10 - s00, (s11 - s10) - (s01 - s00)


@triton.jit
def _store_sums(
    sums, row, rows, column, columns, c, image, g, gx, gy, gxy, CLASSES: tl.constexpr
):  # fmt: skip
    """The gradients of the cells' corners, [B, rows, top/bottom, columns, left/right, C]."""
    top = ((image * rows + row) * 2 * columns + column)[:, None].to(tl.int64) * (2 * CLASSES)
    to = sums + top + c[None, :]
    known = (c < CLASSES)[None, :] & (column < columns)[:, None]
    tl.store(to, g - gx - gy + gxy, mask=known)
    tl.store(to + CLASSES, gx - gxy, mask=known)
    to += columns * 2 * CLASSES
    tl.store(to, gy - gxy, mask=known)
    tl.store(to + CLASSES, gxy, mask=known)


@triton.jit
def forward_kernel(
    scores, labels, full, scale, losses, valid, sums, logarithms, stride_b, stride_c, stride_h,
    stride_w, in_height, in_width, height, width, CLASSES: tl.constexpr, PADDED: tl.constexpr,
    CELLS: tl.constexpr, ALIGN: tl.constexpr, IGNORE: tl.constexpr, LABELS: tl.constexpr,
    WEIGHTS: tl.constexpr, GRADIENT: tl.constexpr, LOGARITHMS: tl.constexpr,
):  # fmt: skip
    """Loss, valid pixels and gradients of one block of cells; log2 Σ exp of each pixel."""
    block, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * CELLS + tl.arange(0, CELLS)
    c = tl.arange(0, PADDED)
    p0, p1, p2, p3 = _corners(
        scores + image.to(tl.int64) * stride_b, row, column, c, stride_c, stride_h, stride_w,
        in_height, in_width, CLASSES, ALIGN,
    )  # fmt: skip
    first = first_output(column, in_width, width, ALIGN)
    held = first_output(column + 1, in_width, width, ALIGN) - first
    y_begin = first_output(row, in_height, height, ALIGN)
    y_end = first_output(row + 1, in_height, height, ALIGN)
    g = tl.zeros((CELLS, PADDED), tl.float32)
    gx = tl.zeros((CELLS, PADDED), tl.float32)
    gy = tl.zeros((CELLS, PADDED), tl.float32)
    gxy = tl.zeros((CELLS, PADDED), tl.float32)
    loss = tl.zeros((CELLS,), tl.float32)
    count = tl.zeros((CELLS,), tl.int32)
    image_weight = 1.0
    if WEIGHTS:
        image_weight = tl.load(scale + image)
    for phase in range(0, tl.max(held)):
        x = first + phase
        inside = phase < held
        tx = weight_in_cell(x, column, in_width, width, ALIGN)[:, None]
        upper = p0 + tx * p1
        step = p2 + tx * p3
        a = tl.zeros((CELLS, PADDED), tl.float32)
        b = tl.zeros((CELLS, PADDED), tl.float32)
        for y in range(y_begin, y_end):
            ty = weight_in_cell(y, row, in_height, height, ALIGN)
            value = upper + ty * step
            largest = tl.max(value, 1)
            term = tl.exp(value - largest[:, None])
            total = tl.sum(term, 1)
            logarithm = tl.log(total) + largest
            pixel = (image.to(tl.int64) * height + y) * width + x
            if LOGARITHMS:
                tl.store(logarithms + pixel, logarithm * LOG2E, mask=inside)
            if LABELS:
                label = tl.load(labels + pixel, mask=inside, other=IGNORE).to(tl.int32)
                # A label that is no class makes the loss NaN, and is left out of everything else.
                label = tl.where(label == IGNORE, -1, label)
                loss += tl.where(label < CLASSES, 0.0, float("nan"))
                counts = label.to(tl.uint32) < CLASSES
                own = c[None, :] == label[:, None]
                nll = logarithm - tl.sum(tl.where(own, value, 0.0), 1)
                weight = tl.zeros_like(nll) + 1.0
                if WEIGHTS:
                    whole = tl.load(full + pixel, mask=inside, other=0) != 0
                    weight = tl.where(whole, 1.0, image_weight)
                    nll *= weight
                loss += tl.where(counts, nll, 0.0)
                count += counts.to(tl.int32)
                if GRADIENT:
                    p = term / total[:, None]
                    gradient = tl.where(counts[:, None], p - own.to(tl.float32), 0.0)
                    if WEIGHTS:
                        gradient *= weight[:, None]
                    a += gradient
                    b += ty * gradient
        if GRADIENT:
            g += a
            gx += tx * a
            gy += b
            gxy += tx * b
    if LABELS:
        program = (image * tl.num_programs(1) + row) * tl.num_programs(0) + block
        tl.store(losses + program, tl.sum(loss))
        tl.store(valid + program, tl.sum(count))
    if GRADIENT:
        rows, columns = cells(in_height, ALIGN), cells(in_width, ALIGN)
        _store_sums(sums, row, rows, column, columns, c, image, g, gx, gy, gxy, CLASSES)


@triton.jit
def backward_kernel(
    scores, incoming, sums, stride_b, stride_c, stride_h, stride_w, from_b, from_c, from_h, from_w,
    in_height, in_width, height, width, CLASSES: tl.constexpr, PADDED: tl.constexpr,
    CELLS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of cells, given the gradient of P: P (dP - Σ dP P)."""
    block, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * CELLS + tl.arange(0, CELLS)
    c = tl.arange(0, PADDED)
    p0, p1, p2, p3 = _corners(
        scores + image.to(tl.int64) * stride_b, row, column, c, stride_c, stride_h, stride_w,
        in_height, in_width, CLASSES, ALIGN,
    )  # fmt: skip
    first = first_output(column, in_width, width, ALIGN)
    held = first_output(column + 1, in_width, width, ALIGN) - first
    y_begin = first_output(row, in_height, height, ALIGN)
    y_end = first_output(row + 1, in_height, height, ALIGN)
    g = tl.zeros((CELLS, PADDED), tl.float32)
    gx = tl.zeros((CELLS, PADDED), tl.float32)
    gy = tl.zeros((CELLS, PADDED), tl.float32)
    gxy = tl.zeros((CELLS, PADDED), tl.float32)
    incoming += image.to(tl.int64) * from_b
    for phase in range(0, tl.max(held)):
        x = first + phase
        known = (phase < held)[:, None] & (c < CLASSES)[None, :]
        tx = weight_in_cell(x, column, in_width, width, ALIGN)[:, None]
        upper = p0 + tx * p1
        step = p2 + tx * p3
        a = tl.zeros((CELLS, PADDED), tl.float32)
        b = tl.zeros((CELLS, PADDED), tl.float32)
        for y in range(y_begin, y_end):
            ty = weight_in_cell(y, row, in_height, height, ALIGN)
            value = upper + ty * step
            term = tl.exp(value - tl.max(value, 1)[:, None])
            p = term / tl.sum(term, 1)[:, None]
            line = (tl.zeros((CELLS,), tl.int64) + y) * from_h + x.to(tl.int64) * from_w
            at = incoming + line[:, None] + c[None, :].to(tl.int64) * from_c
            d = tl.load(at, mask=known, other=0.0).to(tl.float32)
            gradient = p * (d - tl.sum(d * p, 1)[:, None])
            a += gradient
            b += ty * gradient
        g += a
        gx += tx * a
        gy += b
        gxy += tx * b
    rows, columns = cells(in_height, ALIGN), cells(in_width, ALIGN)
    _store_sums(sums, row, rows, column, columns, c, image, g, gx, gy, gxy, CLASSES)
