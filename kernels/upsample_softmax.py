"""Softmax of bilinearly upsampled scores: P at full resolution, but never the scores.

    P[b, k, y, x] = exp(U[b, k, y, x]) / Σ_j exp(U[b, j, y, x]),   U = bilinear(S) at H×W

Shapes: scores S [B, C, h, w] (any strides; float32, bfloat16 or float16), P [B, C, H, W] in the
dtype of S, channels last. Sums are float32. Saved for backward: S alone; P is computed again.

The kernels here also serve `upsample_cross_entropy`, which adds labels. A program takes the pixels
between two rows of S, for a block of neighbouring cells of its grid: the corner scores stay in
registers, and the gradient comes out as four sums for each cell, one for each corner, which a
second kernel adds up. No atomics, so every run gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastass.kernels import dispatch, native
from fastass.kernels.aot import Launch
from fastass.kernels.jit import cdiv, jit, power_of_2, tl
from fastass.kernels.upsample import check_grid, check_scores, upsampled

# --- reference ------------------------------------------------------------------------------------


def reference(scores: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """The definition."""
    return upsampled(scores, size, align_corners).softmax(1).to(scores.dtype)


# --- Triton ---------------------------------------------------------------------------------------


@jit
def _first(cell, inputs, outputs, ALIGN: tl.constexpr):
    """The first output position of a cell: those before lie left of input `cell`."""
    if ALIGN:
        first = (cell * (outputs - 1) + inputs - 2) // tl.maximum(inputs - 1, 1)
        first = tl.where(outputs > 1, first, outputs)
    else:
        first = (outputs * (2 * cell + 1) + inputs - 1) // (2 * inputs)
    cells = tl.maximum(inputs - 1, 1)
    first = tl.where(cell >= cells, outputs, tl.minimum(first, outputs))
    return tl.where(cell <= 0, 0, first)


@jit
def _weight(position, cell, inputs, outputs, ALIGN: tl.constexpr):
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


@jit
def _corners(
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


@jit
def _store_sums(
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


@jit
def forward_kernel(
    scores, labels, losses, valid, sums, probabilities, stride_b, stride_c, stride_h, stride_w,
    in_height, in_width, height, width, CLASSES: tl.constexpr, PADDED: tl.constexpr,
    CELLS: tl.constexpr, ALIGN: tl.constexpr, IGNORE: tl.constexpr, LABELS: tl.constexpr,
    GRADIENT: tl.constexpr, PROBABILITIES: tl.constexpr,
):  # fmt: skip
    """Loss, number of valid pixels and corner gradients of one block of cells; P if wanted."""
    block, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * CELLS + tl.arange(0, CELLS)
    c = tl.arange(0, PADDED)
    p0, p1, p2, p3 = _corners(
        scores + image.to(tl.int64) * stride_b, row, column, c, stride_c, stride_h, stride_w,
        in_height, in_width, CLASSES,
    )  # fmt: skip
    first = _first(column, in_width, width, ALIGN)
    held = _first(column + 1, in_width, width, ALIGN) - first
    y_begin = _first(row, in_height, height, ALIGN)
    y_end = _first(row + 1, in_height, height, ALIGN)
    g = tl.zeros((CELLS, PADDED), tl.float32)
    gx = tl.zeros((CELLS, PADDED), tl.float32)
    gy = tl.zeros((CELLS, PADDED), tl.float32)
    gxy = tl.zeros((CELLS, PADDED), tl.float32)
    loss = tl.zeros((CELLS,), tl.float32)
    count = tl.zeros((CELLS,), tl.int32)
    for phase in range(0, tl.max(held)):
        x = first + phase
        inside = phase < held
        tx = _weight(x, column, in_width, width, ALIGN)[:, None]
        upper = p0 + tx * p1
        step = p2 + tx * p3
        a = tl.zeros((CELLS, PADDED), tl.float32)
        b = tl.zeros((CELLS, PADDED), tl.float32)
        for y in range(y_begin, y_end):
            ty = _weight(y, row, in_height, height, ALIGN)
            value = upper + ty * step
            largest = tl.max(value, 1)
            term = tl.exp(value - largest[:, None])
            total = tl.sum(term, 1)
            p = term / total[:, None]
            pixel = (image.to(tl.int64) * height + y) * width + x
            if PROBABILITIES:
                known = inside[:, None] & (c < CLASSES)[None, :]
                to = probabilities + pixel[:, None] * CLASSES + c[None, :]
                tl.store(to, p.to(probabilities.dtype.element_ty), mask=known)
            if LABELS:
                label = tl.load(labels + pixel, mask=inside, other=IGNORE).to(tl.int32)
                counts = label != IGNORE
                own = c[None, :] == label[:, None]
                nll = tl.log(total) + largest - tl.sum(tl.where(own, value, 0.0), 1)
                # A label out of range is not looked up anywhere: it makes the loss NaN.
                nll = tl.where(label < CLASSES, nll, float("nan"))
                loss += tl.where(counts, nll, 0.0)
                count += counts.to(tl.int32)
                if GRADIENT:
                    gradient = tl.where(counts[:, None], p - own.to(tl.float32), 0.0)
                    a += gradient
                    b += ty * gradient
        if GRADIENT:
            g += a
            gx += tx * a
            gy += b
            gxy += tx * b
    cell_rows, cell_columns = tl.maximum(in_height - 1, 1), tl.maximum(in_width - 1, 1)
    if LABELS:
        program = (image * tl.num_programs(1) + row) * tl.num_programs(0) + block
        tl.store(losses + program, tl.sum(loss))
        tl.store(valid + program, tl.sum(count))
    if GRADIENT:
        _store_sums(sums, image, row, column, c, cell_rows, cell_columns, g, gx, gy, gxy, CLASSES)


@jit
def backward_kernel(
    scores, incoming, sums, stride_b, stride_c, stride_h, stride_w, from_b, from_c, from_h, from_w,
    in_height, in_width, height, width, CLASSES: tl.constexpr, PADDED: tl.constexpr,
    CELLS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Corner gradients of one block of cells, given the gradient of P: P (dP - Σ dP P)."""
    block, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * CELLS + tl.arange(0, CELLS)
    c = tl.arange(0, PADDED)
    p0, p1, p2, p3 = _corners(
        scores + image.to(tl.int64) * stride_b, row, column, c, stride_c, stride_h, stride_w,
        in_height, in_width, CLASSES,
    )  # fmt: skip
    first = _first(column, in_width, width, ALIGN)
    held = _first(column + 1, in_width, width, ALIGN) - first
    y_begin = _first(row, in_height, height, ALIGN)
    y_end = _first(row + 1, in_height, height, ALIGN)
    g = tl.zeros((CELLS, PADDED), tl.float32)
    gx = tl.zeros((CELLS, PADDED), tl.float32)
    gy = tl.zeros((CELLS, PADDED), tl.float32)
    gxy = tl.zeros((CELLS, PADDED), tl.float32)
    incoming += image.to(tl.int64) * from_b
    for phase in range(0, tl.max(held)):
        x = first + phase
        known = (phase < held)[:, None] & (c < CLASSES)[None, :]
        tx = _weight(x, column, in_width, width, ALIGN)[:, None]
        upper = p0 + tx * p1
        step = p2 + tx * p3
        a = tl.zeros((CELLS, PADDED), tl.float32)
        b = tl.zeros((CELLS, PADDED), tl.float32)
        for y in range(y_begin, y_end):
            ty = _weight(y, row, in_height, height, ALIGN)
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
    cell_rows, cell_columns = tl.maximum(in_height - 1, 1), tl.maximum(in_width - 1, 1)
    _store_sums(sums, image, row, column, c, cell_rows, cell_columns, g, gx, gy, gxy, CLASSES)


@jit
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


_GATHER = 1024


def constants(classes: int, align_corners: bool) -> dict[str, int]:
    """Tile sizes: a tile is 16 cells, so that some 16 tiles fit into the registers of 4 warps."""
    padded = power_of_2(classes, at_least=4)
    return {"CLASSES": classes, "PADDED": padded, "CELLS": 16, "ALIGN": int(align_corners)}


def launch_forward(
    scores: Tensor,
    labels: Tensor | None,
    size: tuple[int, int],
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The forward kernel: sum of losses (float64), valid pixels, their gradient (float32), P."""
    batch, classes, in_height, in_width = scores.shape
    tile = constants(classes, align_corners)
    cell_rows, cell_columns = max(in_height - 1, 1), max(in_width - 1, 1)
    grid = (cdiv(cell_columns, tile["CELLS"]), cell_rows, batch)
    programs = grid[0] * grid[1] * grid[2] if labels is not None else 0
    losses = scores.new_empty(programs, dtype=torch.float32)
    valid = scores.new_empty(programs, dtype=torch.int32)
    sums = empty_sums(scores) if need_gradient else None
    probabilities = empty_probabilities(scores, size) if need_probabilities else None
    forward_kernel[grid](
        scores, labels, losses, valid, sums, probabilities, *scores.stride(), in_height, in_width,
        *size, **tile, IGNORE=ignore_index, LABELS=labels is not None, GRADIENT=need_gradient,
        PROBABILITIES=need_probabilities, num_warps=4,
    )  # fmt: skip
    gradient = gather(sums, scores) if sums is not None else None
    return losses.sum(dtype=torch.float64), valid.sum(), gradient, probabilities


def launch_backward(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    """The backward kernel: float32 gradient of the scores, given that of P."""
    batch, classes, in_height, in_width = scores.shape
    tile = constants(classes, align_corners)
    sums = empty_sums(scores)
    grid = (cdiv(max(in_width - 1, 1), tile["CELLS"]), max(in_height - 1, 1), batch)
    backward_kernel[grid](
        scores, incoming, sums, *scores.stride(), *incoming.stride(), in_height, in_width,
        *incoming.shape[2:], **tile, num_warps=4,
    )  # fmt: skip
    return gather(sums, scores)


def gather(sums: Tensor, scores: Tensor) -> Tensor:
    """Corner sums to the gradient [B, C, h, w], float32, channels last."""
    gradient = empty_gradient(scores)
    total = scores.numel()
    gather_kernel[(cdiv(total, _GATHER),)](
        sums,
        gradient,
        total,
        *scores.shape[2:],
        CLASSES=scores.shape[1],
        BLOCK=_GATHER,
        num_warps=4,
    )
    return gradient


def empty_sums(scores: Tensor) -> Tensor:
    batch, classes, height, width = scores.shape
    shape = (batch, max(height - 1, 1), max(width - 1, 1), 4, classes)
    return scores.new_empty(shape, dtype=torch.float32)


def empty_gradient(scores: Tensor) -> Tensor:
    return torch.empty(
        scores.shape,
        dtype=torch.float32,
        device=scores.device,
        memory_format=torch.channels_last,
    )


def empty_probabilities(scores: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.empty(
        (*scores.shape[:2], *size),
        dtype=scores.dtype,
        device=scores.device,
        memory_format=torch.channels_last,
    )


def aot_arguments(dtype: torch.dtype, classes: int, names: tuple[str, ...]) -> dict[str, object]:
    """Sizes and strides as in training: 91×161 → 720×1280, channels last."""
    known = {
        "scores": dtype,
        "incoming": dtype,
        "probabilities": dtype,
        "labels": torch.uint8,
        "losses": torch.float32,
        "valid": torch.int32,
        "sums": torch.float32,
        **{"stride_b": 91 * 161 * classes, "stride_c": 1},
        **{"stride_h": 161 * classes, "stride_w": classes},
        **{"from_b": 720 * 1280 * classes, "from_c": 1},
        **{"from_h": 1280 * classes, "from_w": classes},
        **{"in_height": 91, "in_width": 161, "height": 720, "width": 1280},
    }
    return {name: known[name] for name in names}


_GRID = ("stride_b", "stride_c", "stride_h", "stride_w", "in_height", "in_width", "height", "width")
_FROM = ("from_b", "from_c", "from_h", "from_w")


def aot_forward(
    name: str,
    dtype: torch.dtype,
    classes: int,
    align_corners: bool,
    pointers: tuple[str, ...],
) -> Launch:
    """A launch of the forward kernel; those of its pointers that are not in `pointers` are None."""
    every = ("labels", "losses", "valid", "sums", "probabilities")
    given = aot_arguments(dtype, classes, ("scores", *pointers, *_GRID))
    flags = {
        "IGNORE": 255,
        "LABELS": "labels" in pointers,
        "GRADIENT": "sums" in pointers,
        "PROBABILITIES": "probabilities" in pointers,
    }
    absent = {name: None for name in every if name not in pointers}
    return Launch(
        name,
        forward_kernel,
        {**given, **absent},
        {**constants(classes, align_corners), **flags},
        num_warps=4,
    )


def _aot_backward(name: str, dtype: torch.dtype, classes: int, align_corners: bool) -> Launch:
    given = aot_arguments(dtype, classes, ("scores", "incoming", "sums", *_GRID, *_FROM))
    return Launch(name, backward_kernel, given, constants(classes, align_corners), num_warps=4)


AOT = (
    aot_forward("P fp32", torch.float32, 19, True, ("probabilities",)),
    aot_forward("P bf16", torch.bfloat16, 19, True, ("probabilities",)),
    aot_forward("P bf16 64 classes", torch.bfloat16, 64, False, ("probabilities",)),
    _aot_backward("backward fp32", torch.float32, 19, True),
    _aot_backward("backward bf16", torch.bfloat16, 19, True),
    _aot_backward("backward fp16 half-pixel", torch.float16, 19, False),
    _aot_backward("backward bf16 64 classes", torch.bfloat16, 64, True),
    Launch(
        "gather",
        gather_kernel,
        {
            **{"sums": torch.float32, "gradient": torch.float32, "total": 8 * 19 * 91 * 161},
            **{"height": 91, "width": 161},
        },
        {"CLASSES": 19, "BLOCK": _GATHER},
        num_warps=4,
    ),
)


# --- native ---------------------------------------------------------------------------------------


def native_forward(
    scores: Tensor,
    labels: Tensor | None,
    size: tuple[int, int],
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """As `launch_forward`, on the CPU."""
    batch, classes, in_height, in_width = scores.shape
    loss = torch.zeros((), dtype=torch.float64)
    valid = torch.zeros((), dtype=torch.int64)
    gradient = empty_gradient(scores) if need_gradient else None
    probabilities = empty_probabilities(scores, size) if need_probabilities else None
    strides = probabilities.stride() if probabilities is not None else (0, 0, 0, 0)
    native.call(
        "upsample_softmax_forward", scores, native.ELEMENTS[scores.dtype], *scores.stride(),
        labels, probabilities, *strides, gradient, loss, valid, batch, classes, in_height, in_width,
        *size, align_corners, ignore_index, torch.get_num_threads(),
    )  # fmt: skip
    return loss, valid, gradient, probabilities


def native_backward(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    """As `launch_backward`, on the CPU."""
    gradient = empty_gradient(scores)
    native.call(
        "upsample_softmax_backward", scores, native.ELEMENTS[scores.dtype], *scores.stride(),
        incoming, *incoming.stride(), gradient, *scores.shape, *incoming.shape[2:],
        align_corners, torch.get_num_threads(),
    )  # fmt: skip
    return gradient


# --- registration ---------------------------------------------------------------------------------


@torch.library.custom_op("fastass::upsample_softmax", mutates_args=(), device_types="cuda")
def _operator(scores: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    out = launch_forward(scores, None, (height, width), align_corners, 255, False, True)[3]
    assert out is not None
    return out


@_operator.register_kernel("cpu")
def _native(scores: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    out = native_forward(scores, None, (height, width), align_corners, 255, False, True)[3]
    assert out is not None
    return out


@_operator.register_fake
def _fake(scores: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    return empty_probabilities(scores, (height, width))


@torch.library.custom_op("fastass::upsample_softmax_backward", mutates_args=(), device_types="cuda")
def softmax_backward(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    """Gradient of the scores, float32 and channels last, given that of P in the scores' dtype."""
    return launch_backward(scores, incoming, align_corners)


@softmax_backward.register_kernel("cpu")
def _backward_native(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    return native_backward(scores, incoming, align_corners)


@softmax_backward.register_fake
def _backward_fake(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    return empty_gradient(scores)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.align_corners = inputs[3]


def _gradient(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
    (scores,) = ctx.saved_tensors
    gradient = softmax_backward(scores, incoming.to(scores.dtype), ctx.align_corners)
    return gradient.to(scores.dtype), None, None, None


_operator.register_autograd(_gradient, setup_context=_save)


def upsample_softmax(scores: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """P [B, C, H, W]: softmax over the classes of bilinearly upsampled scores; differentiable once.

    scores: [B, C, h, w], float32, bfloat16 or float16, any strides, C ≤ 64.
    size: (H, W). align_corners: as in `torch.nn.functional.interpolate`.
    P has the dtype of scores (autocast leaves both alone) and is channels last.

    Raises TypeError or ValueError for arguments that do not fit.
    """
    implementation = dispatch.resolve(scores.device)
    check_scores(scores, implementation)
    check_grid(size, scores, align_corners, "size")
    if implementation == "reference":
        return reference(scores, size, align_corners=align_corners)
    return torch.ops.fastass.upsample_softmax(scores, size[0], size[1], align_corners)
