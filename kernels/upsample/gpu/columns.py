"""Softmax and cross-entropy of upsampled scores, up to 32 classes: a thread per output column.

A program is one warp. Its lanes take the columns of a few neighbouring cells and walk down a strip
of cell rows. All classes of a pixel are in one thread, in tuples of [CELLS, LANES] tensors: sums
over classes need no exchange between threads, and no lane idles for want of a class. The scores of
a line are loaded once for the cells above and below it, and their gradients for it are one sum.
"""

# Triton knows no (*tuple, value), and mypy no tuple that grows.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,misc"

from __future__ import annotations

import triton
import triton.language as tl

from fastass.kernels.upsample.gpu.cells import (
    LN2,
    LOG2E,
    cells,
    finite,
    first_output,
    lower_end,
    upper_end,
    weight_in_cell,
)

CLASSES_IN_REGISTERS = 32  # more do not fit into the registers of a thread
ROWS = 4  # cell rows of a strip


@triton.jit
def _columns(
    in_width, width, CELLS: tl.constexpr, LANES: tl.constexpr, PHASES: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Segments [CELLS] and their cells; output columns [CELLS, LANES], weights, and if in use."""
    segment = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    cell = segment // PHASES
    first = first_output(cell, in_width, width, ALIGN) + segment % PHASES * LANES
    end = first_output(cell + 1, in_width, width, ALIGN)
    x = first[:, None] + tl.arange(0, LANES)[None, :]
    weight = weight_in_cell(x, cell[:, None], in_width, width, ALIGN)
    return segment, cell, x, weight, x < end[:, None]


@triton.jit
def _zeros(like, CLASSES: tl.constexpr):
    values = ()
    for _ in tl.static_range(CLASSES):
        values = values + (tl.zeros_like(like),)
    return values


@triton.jit
def _line(line, left, right, weight, stride_c, CLASSES: tl.constexpr):
    """Scores · log2 e of all classes at the output columns, on one line of the scores' grid."""
    values = ()
    for c in tl.static_range(CLASSES):
        a = finite(tl.load(line + left + c * stride_c))
        b = finite(tl.load(line + right + c * stride_c))
        values = values + ((a + weight * (b - a)) * LOG2E,)
    return values


@triton.jit
def _differences(lower, upper, CLASSES: tl.constexpr):
    values = ()
    for c in tl.static_range(CLASSES):
        values = values + (lower[c] - upper[c],)
    return values


@triton.jit
def _terms(upper, step, weight, CLASSES: tl.constexpr):
    """At an output row: values, their maximum, terms 2^(value - maximum), and the terms' sum."""
    values = ()
    for c in tl.static_range(CLASSES):
        values = values + (upper[c] + weight * step[c],)
    largest = values[0]
    for c in tl.static_range(1, CLASSES):
        largest = tl.maximum(largest, values[c])
    terms = ()
    total = tl.zeros_like(largest)
    for c in tl.static_range(CLASSES):
        terms = terms + (tl.exp2(values[c] - largest),)
        total += terms[c]
    return values, largest, terms, total


@triton.jit
def _store_line(sums, weight, line, segment, segments, CLASSES: tl.constexpr):
    """Gradients of the two ends of each segment, for one line of the scores' grid."""
    to = sums + segment * (2 * CLASSES)
    for c in tl.static_range(CLASSES):
        right = weight * line[c]
        tl.store(to + c, tl.sum(line[c] - right, 1), mask=segment < segments)
        tl.store(to + (CLASSES + c), tl.sum(right, 1), mask=segment < segments)


@triton.jit
def forward_kernel(
    scores, labels, full, scale, losses, valid, sums, logarithms, stride_b, stride_c, stride_h,
    stride_w, in_height, in_width, height, width, CLASSES: tl.constexpr, CELLS: tl.constexpr,
    LANES: tl.constexpr, PHASES: tl.constexpr, ROWS: tl.constexpr, ALIGN: tl.constexpr,
    IGNORE: tl.constexpr, PRODUCT: tl.constexpr, LABELS: tl.constexpr, WEIGHTS: tl.constexpr,
    GRADIENT: tl.constexpr, LOGARITHMS: tl.constexpr,
):  # fmt: skip
    """Loss, number of valid pixels and gradients of one strip of cells; log2 Σ exp of each pixel.

    PRODUCT: a cell has so few rows that the product of its sums of terms does not overflow; then
    one logarithm per cell and column does, instead of one per pixel. Not with WEIGHTS.
    """
    strip, image = tl.program_id(1), tl.program_id(2)
    segment, cell, x, tx, inside = _columns(in_width, width, CELLS, LANES, PHASES, ALIGN)
    scores += image.to(tl.int64) * stride_b
    left = (lower_end(cell, in_width, ALIGN) * stride_w)[:, None]
    right = (upper_end(cell, in_width, ALIGN) * stride_w)[:, None]
    line = scores + lower_end(strip * ROWS, in_height, ALIGN) * stride_h
    upper = _line(line, left, right, tx, stride_c, CLASSES)
    # Gradients for the line above and the line below the current row of cells.
    above, below = _zeros(tx, CLASSES), _zeros(tx, CLASSES)
    loss = tl.zeros_like(tx)
    count = tl.zeros_like(x)
    highest = tl.zeros_like(x)
    image_weight = 1.0
    if WEIGHTS:
        image_weight = tl.load(scale + image)
    segments = cells(in_width, ALIGN) * PHASES
    line_sums = sums
    if GRADIENT:
        program = (image * tl.num_programs(1) + strip).to(tl.int64)
        line_sums = sums + program * (ROWS + 1) * (segments * 2 * CLASSES)
    for row in range(strip * ROWS, tl.minimum(strip * ROWS + ROWS, cells(in_height, ALIGN))):
        line = scores + upper_end(row, in_height, ALIGN) * stride_h
        lower = _line(line, left, right, tx, stride_c, CLASSES)
        step = _differences(lower, upper, CLASSES)
        product = tl.zeros_like(tx) + 1.0
        for y in range(
            first_output(row, in_height, height, ALIGN),
            first_output(row + 1, in_height, height, ALIGN),
        ):
            ty = weight_in_cell(y, row, in_height, height, ALIGN)
            values, largest, terms, total = _terms(upper, step, ty, CLASSES)
            pixel = (image * height + y).to(tl.int64) * width + x
            if LOGARITHMS:
                tl.store(logarithms + pixel, tl.log2(total) + largest, mask=inside)
            if LABELS:
                label = tl.load(labels + pixel, mask=inside, other=IGNORE).to(tl.int32)
                label = tl.where(label == IGNORE, -1, label)
                highest = tl.maximum(highest, label)
                counts = label.to(tl.uint32) < CLASSES
                count += counts.to(tl.int32)
                own = tl.zeros_like(tx)
                for c in tl.static_range(CLASSES):
                    own = tl.where(label == c, values[c], own)
                weight = tl.zeros_like(tx) + 1.0
                if WEIGHTS:
                    whole = tl.load(full + pixel, mask=inside, other=0) != 0
                    weight = tl.where(whole, 1.0, image_weight)
                    loss += tl.where(counts, weight * (largest - own + tl.log2(total)), 0.0)
                else:
                    loss += tl.where(counts, largest - own, 0.0)
                    if PRODUCT:
                        product *= tl.where(counts, total, 1.0)
                    else:
                        loss += tl.where(counts, tl.log2(total), 0.0)
                if GRADIENT:
                    both = tl.where(counts, weight / total, 0.0)
                    down = ty * both
                    up = both - down
                    new_above, new_below = (), ()
                    for c in tl.static_range(CLASSES):
                        part = tl.where(label == c, terms[c] - total, terms[c])
                        new_above = new_above + (above[c] + part * up,)
                        new_below = new_below + (below[c] + part * down,)
                    above, below = new_above, new_below
        if LABELS and PRODUCT and not WEIGHTS:
            loss += tl.log2(product)
        if GRADIENT:
            _store_line(line_sums, tx, above, segment, segments, CLASSES)
            line_sums += segments * 2 * CLASSES
            above, below = below, _zeros(tx, CLASSES)
        upper = lower
    if GRADIENT:
        _store_line(line_sums, tx, above, segment, segments, CLASSES)
    if LABELS:
        # A label that is no class makes the loss NaN, and is left out of everything else.
        loss = tl.where(highest < CLASSES, loss * LN2, float("nan"))
        program = (image * tl.num_programs(1) + strip) * tl.num_programs(0) + tl.program_id(0)
        tl.store(losses + program, tl.sum(loss))
        tl.store(valid + program, tl.sum(count))


@triton.jit
def backward_kernel(
    scores, incoming, sums, stride_b, stride_c, stride_h, stride_w, from_b, from_c, from_h, from_w,
    in_height, in_width, height, width, CLASSES: tl.constexpr, CELLS: tl.constexpr,
    LANES: tl.constexpr, PHASES: tl.constexpr, ROWS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Gradients of one strip of cells, given the gradient of P: P (dP - Σ dP P)."""
    strip, image = tl.program_id(1), tl.program_id(2)
    segment, cell, x, tx, inside = _columns(in_width, width, CELLS, LANES, PHASES, ALIGN)
    scores += image.to(tl.int64) * stride_b
    incoming += image.to(tl.int64) * from_b
    left = (lower_end(cell, in_width, ALIGN) * stride_w)[:, None]
    right = (upper_end(cell, in_width, ALIGN) * stride_w)[:, None]
    line = scores + lower_end(strip * ROWS, in_height, ALIGN) * stride_h
    upper = _line(line, left, right, tx, stride_c, CLASSES)
    above, below = _zeros(tx, CLASSES), _zeros(tx, CLASSES)
    segments = cells(in_width, ALIGN) * PHASES
    program = (image * tl.num_programs(1) + strip).to(tl.int64)
    line_sums = sums + program * (ROWS + 1) * (segments * 2 * CLASSES)
    for row in range(strip * ROWS, tl.minimum(strip * ROWS + ROWS, cells(in_height, ALIGN))):
        line = scores + upper_end(row, in_height, ALIGN) * stride_h
        lower = _line(line, left, right, tx, stride_c, CLASSES)
        step = _differences(lower, upper, CLASSES)
        for y in range(
            first_output(row, in_height, height, ALIGN),
            first_output(row + 1, in_height, height, ALIGN),
        ):
            ty = weight_in_cell(y, row, in_height, height, ALIGN)
            _, _, terms, total = _terms(upper, step, ty, CLASSES)
            offset = (tl.zeros_like(x) + y).to(tl.int64) * from_h + x.to(tl.int64) * from_w
            at = incoming + offset
            mean = tl.zeros_like(tx)
            given = ()
            for c in tl.static_range(CLASSES):
                d = tl.load(at + c * from_c, mask=inside, other=0.0).to(tl.float32)
                given = given + (d,)
                mean += d * terms[c]
            scale = 1.0 / total
            mean *= scale
            down = ty * scale
            up = scale - down
            new_above, new_below = (), ()
            for c in tl.static_range(CLASSES):
                part = (given[c] - mean) * terms[c]
                new_above = new_above + (above[c] + part * up,)
                new_below = new_below + (below[c] + part * down,)
            above, below = new_above, new_below
        _store_line(line_sums, tx, above, segment, segments, CLASSES)
        line_sums += segments * 2 * CLASSES
        above, below = below, _zeros(tx, CLASSES)
        upper = lower
    _store_line(line_sums, tx, above, segment, segments, CLASSES)
