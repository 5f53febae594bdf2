"""Triton kernels that move the scores of all taps to where they belong, and their gradient back.

`taps` [P, S] holds, for each of P = B·h·w pixels, the score of tap t and class c in column t·C + c.
There may be more columns. Tap t is number t mod 9 of a 3×3 convolution of dilation d_{t div 9}:

    y[p, c] = bias[c] + Σ_t taps[p + offset_t, t·C + c]        (outside the image: 0)
    dtaps[p, t·C + c] = dy[p − offset_t, c]

with offset_t = (t mod 9 div 3 − 1, t mod 3 − 1) · d. Sums are taken in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.convolution.taps.product import BRANCHES
from fastass.kernels.launch import cdiv, power_of_2

_PIXELS, _COLUMNS, _WARPS = 32, 128, 4


@triton.jit
def _offset(tap, d0, d1, d2, d3):
    """(rows, columns) from a pixel to where its tap reads."""
    branch = tap // 9
    d = tl.where(branch < 2, tl.where(branch == 0, d0, d1), tl.where(branch == 2, d2, d3))
    return (tap % 9 // 3 - 1) * d, (tap % 3 - 1) * d


@triton.jit
def gather_kernel(
    taps, bias, y, pixels, height, width, stride, classes, count, d0, d1, d2, d3,
    PIXELS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.arange(0, CLASSES)
    row, column = p // width % height, p % width
    total = tl.zeros((PIXELS, CLASSES), dtype=tl.float32)
    total += tl.load(bias + c, mask=c < classes, other=0.0).to(tl.float32)[None, :]
    for tap in range(count):
        down, right = _offset(tap, d0, d1, d2, d3)
        r, q = row + down, column + right
        inside = (p < pixels) & (r >= 0) & (r < height) & (q >= 0) & (q < width)
        place = (p + down * width + right).to(tl.int64) * stride + tap * classes
        mask = inside[:, None] & (c < classes)[None, :]
        total += tl.load(taps + place[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    mask = (p < pixels)[:, None] & (c < classes)[None, :]
    place = p[:, None].to(tl.int64) * classes + c[None, :]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=mask)


@triton.jit
def scatter_kernel(
    gradient, taps, pixels, height, width, stride, classes, count, d0, d1, d2, d3,
    PIXELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Writes every column, those behind the last tap as zeros."""
    p = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    s = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    down, right = _offset(s // classes, d0, d1, d2, d3)
    r, q = p // width % height - down, p % width - right
    inside = (p < pixels) & (s < classes * count)
    inside = inside & (r >= 0) & (r < height) & (q >= 0) & (q < width)
    place = (p - down * width - right).to(tl.int64) * classes + s % classes
    value = tl.load(gradient + place, mask=inside, other=0.0)
    tl.store(taps + p.to(tl.int64) * stride + s, value, mask=(p < pixels) & (s < stride))


def _arguments(
    size: Sequence[int], stride: int, classes: int, dilations: Sequence[int]
) -> dict[str, int]:
    batch, height, width = size
    names = [f"d{i}" for i in range(BRANCHES)]
    padded = [*dilations, *[0] * (BRANCHES - len(dilations))]
    return {
        **{"pixels": batch * height * width, "height": height, "width": width},
        **{"stride": stride, "classes": classes, "count": 9 * len(dilations)},
        **dict(zip(names, padded, strict=True)),
    }


def gather(taps: Tensor, bias: Tensor, size: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """y [P, C] for size = (B, h, w) and bias [C]; up to `BRANCHES` dilations."""
    classes = bias.shape[0]
    y = taps.new_empty((taps.shape[0], classes))
    gather_kernel[(cdiv(taps.shape[0], _PIXELS),)](
        taps=taps,
        bias=bias,
        y=y,
        **_arguments(size, taps.shape[1], classes, dilations),
        PIXELS=_PIXELS,
        CLASSES=power_of_2(classes),
        num_warps=_WARPS,
    )
    return y


def scatter(gradient: Tensor, stride: int, size: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """The gradient of taps [P, stride], given that of y [P, C], which is contiguous."""
    pixels, classes = gradient.shape
    taps = gradient.new_empty((pixels, stride))
    scatter_kernel[(cdiv(pixels, _PIXELS), cdiv(stride, _COLUMNS))](
        gradient=gradient,
        taps=taps,
        **_arguments(size, stride, classes, dilations),
        PIXELS=_PIXELS,
        COLUMNS=_COLUMNS,
        num_warps=_WARPS,
    )
    return taps


def _launches() -> tuple[Launch, ...]:
    sizes = _arguments((8, 91, 161), 688, 19, (6, 12, 18, 24))
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        maps: dict[str, Any] = {"taps": dtype, "bias": torch.float32, "y": dtype}
        tiles = {"PIXELS": _PIXELS, "CLASSES": 32}
        found.append(Launch(f"gather {name}", gather_kernel, {**maps, **sizes}, tiles, _WARPS))
        maps = {"gradient": dtype, "taps": dtype}
        tiles = {"PIXELS": _PIXELS, "COLUMNS": _COLUMNS}
        found.append(Launch(f"scatter {name}", scatter_kernel, {**maps, **sizes}, tiles, _WARPS))
    return tuple(found)


AOT = _launches()
"""Of 1280×720 images and the paper's classifier."""
