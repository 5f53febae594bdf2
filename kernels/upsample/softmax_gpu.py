"""Triton kernels of softmax and cross-entropy of bilinearly upsampled scores, and their launches.

`fastass.kernels.upsample.softmax` and `upsample_cross_entropy` have the contracts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.launch import cdiv, power_of_2
from fastass.kernels.upsample.gpu_cells import (
    corners,
    first_output,
    gather_kernel,
    store_sums,
    weight_in_cell,
)
from fastass.kernels.upsample.grid import empty_gradient, empty_probabilities


@triton.jit
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
    p0, p1, p2, p3 = corners(
        scores + image.to(tl.int64) * stride_b, row, column, c, stride_c, stride_h, stride_w,
        in_height, in_width, CLASSES,
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
            p = term / total[:, None]
            pixel = (image.to(tl.int64) * height + y) * width + x
            if PROBABILITIES:
                known = inside[:, None] & (c < CLASSES)[None, :]
                to = probabilities + pixel[:, None] * CLASSES + c[None, :]
                tl.store(to, p.to(probabilities.dtype.element_ty), mask=known)
            if LABELS:
                label = tl.load(labels + pixel, mask=inside, other=IGNORE).to(tl.int32)
                # A label that is no class makes the loss NaN, and is left out of everything else.
                label = tl.where(label == IGNORE, -1, label)
                loss += tl.where(label < CLASSES, 0.0, float("nan"))
                counts = label.to(tl.uint32) < CLASSES
                own = c[None, :] == label[:, None]
                nll = tl.log(total) + largest - tl.sum(tl.where(own, value, 0.0), 1)
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
        store_sums(sums, image, row, column, c, cell_rows, cell_columns, g, gx, gy, gxy, CLASSES)


@triton.jit
def backward_kernel(
    scores, incoming, sums, stride_b, stride_c, stride_h, stride_w, from_b, from_c, from_h, from_w,
    in_height, in_width, height, width, CLASSES: tl.constexpr, PADDED: tl.constexpr,
    CELLS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Corner gradients of one block of cells, given the gradient of P: P (dP - Σ dP P)."""
    block, row, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * CELLS + tl.arange(0, CELLS)
    c = tl.arange(0, PADDED)
    p0, p1, p2, p3 = corners(
        scores + image.to(tl.int64) * stride_b, row, column, c, stride_c, stride_h, stride_w,
        in_height, in_width, CLASSES,
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
    cell_rows, cell_columns = tl.maximum(in_height - 1, 1), tl.maximum(in_width - 1, 1)
    store_sums(sums, image, row, column, c, cell_rows, cell_columns, g, gx, gy, gxy, CLASSES)


_GATHER = 1024  # scores that a program of the gather kernel adds up


def _constants(classes: int, align_corners: bool) -> dict[str, int]:
    """Tile sizes: a tile is 16 cells, so that some 16 tiles fit into the registers of 4 warps."""
    padded = power_of_2(classes, at_least=4)
    return {"CLASSES": classes, "PADDED": padded, "CELLS": 16, "ALIGN": int(align_corners)}


def forward(
    scores: Tensor,
    labels: Tensor | None,
    size: tuple[int, int],
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Sum of losses (float64), valid pixels, the gradient of the sum (float32), P."""
    batch, classes, in_height, in_width = scores.shape
    tile = _constants(classes, align_corners)
    cell_rows, cell_columns = max(in_height - 1, 1), max(in_width - 1, 1)
    grid = (cdiv(cell_columns, tile["CELLS"]), cell_rows, batch)
    programs = grid[0] * grid[1] * grid[2] if labels is not None else 0
    losses = scores.new_empty(programs, dtype=torch.float32)
    valid = scores.new_empty(programs, dtype=torch.int32)
    sums = _empty_sums(scores) if need_gradient else None
    probabilities = empty_probabilities(scores, size) if need_probabilities else None
    forward_kernel[grid](
        scores, labels, losses, valid, sums, probabilities, *scores.stride(), in_height, in_width,
        *size, **tile, IGNORE=ignore_index, LABELS=labels is not None, GRADIENT=need_gradient,
        PROBABILITIES=need_probabilities, num_warps=4,
    )  # fmt: skip
    gradient = _gather(sums, scores) if sums is not None else None
    return losses.sum(dtype=torch.float64), valid.sum(), gradient, probabilities


def backward(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    """Float32 gradient of the scores, given that of P."""
    batch, classes, in_height, in_width = scores.shape
    tile = _constants(classes, align_corners)
    sums = _empty_sums(scores)
    grid = (cdiv(max(in_width - 1, 1), tile["CELLS"]), max(in_height - 1, 1), batch)
    backward_kernel[grid](
        scores, incoming, sums, *scores.stride(), *incoming.stride(), in_height, in_width,
        *incoming.shape[2:], **tile, num_warps=4,
    )  # fmt: skip
    return _gather(sums, scores)


def _gather(sums: Tensor, scores: Tensor) -> Tensor:
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


def _empty_sums(scores: Tensor) -> Tensor:
    batch, classes, height, width = scores.shape
    shape = (batch, max(height - 1, 1), max(width - 1, 1), 4, classes)
    return scores.new_empty(shape, dtype=torch.float32)


def _aot_arguments(dtype: torch.dtype, classes: int, names: tuple[str, ...]) -> dict[str, object]:
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


def _aot_forward(
    name: str,
    dtype: torch.dtype,
    classes: int,
    align_corners: bool,
    pointers: tuple[str, ...],
) -> Launch:
    """A launch of the forward kernel; those of its pointers that are not in `pointers` are None."""
    every = ("labels", "losses", "valid", "sums", "probabilities")
    given = _aot_arguments(dtype, classes, ("scores", *pointers, *_GRID))
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
        {**_constants(classes, align_corners), **flags},
        num_warps=4,
    )


def _aot_backward(name: str, dtype: torch.dtype, classes: int, align_corners: bool) -> Launch:
    given = _aot_arguments(dtype, classes, ("scores", "incoming", "sums", *_GRID, *_FROM))
    return Launch(name, backward_kernel, given, _constants(classes, align_corners), num_warps=4)


_LOSS = ("labels", "losses", "valid")
_TRAINING = (*_LOSS, "sums")
AOT = (
    _aot_forward("cross-entropy fp32", torch.float32, 19, True, _TRAINING),
    _aot_forward("cross-entropy bf16", torch.bfloat16, 19, True, _TRAINING),
    _aot_forward("cross-entropy fp16 half-pixel", torch.float16, 19, False, _TRAINING),
    _aot_forward("cross-entropy bf16 64 classes", torch.bfloat16, 64, True, _TRAINING),
    _aot_forward("with P bf16", torch.bfloat16, 19, True, (*_TRAINING, "probabilities")),
    _aot_forward("cross-entropy alone bf16", torch.bfloat16, 19, True, _LOSS),
    _aot_forward("P fp32", torch.float32, 19, True, ("probabilities",)),
    _aot_forward("P bf16", torch.bfloat16, 19, True, ("probabilities",)),
    _aot_forward("P bf16 64 classes", torch.bfloat16, 64, False, ("probabilities",)),
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
