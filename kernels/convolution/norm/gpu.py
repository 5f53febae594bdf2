"""Triton kernels of a training batch norm over pixels × channels [P, N], for `op.py`.

Forward: `statistics_kernel` reduces parts of the pixels, `apply_kernel` merges the parts and
normalises. Backward: `sums_kernel` and `gradient_kernel` do the same for the gradient's two sums.
So a map is read twice and written once in each direction; every program that normalises merges the
parts of its channels by itself, which saves a launch. All arithmetic is in float32; parts are
merged in a fixed order (Chan, Golub and LeVeque 1979).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.launch import cdiv

_TILE: dict[str, Any] = {"ROWS": 64, "COLUMNS": 64}
_PARTS = 16  # merged at a time
_PROGRAMS = 1024  # about so many, to fill a GPU
_WARPS = 8


@triton.jit
def statistics_kernel(
    x, means, deviations, pixels, channels, per_part, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Of each part of the pixels: the mean, and the sum of squared deviations from it."""
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(0) * per_part
    end = tl.minimum(first + per_part, pixels)
    mean = tl.zeros((COLUMNS,), dtype=tl.float32)
    deviation = tl.zeros((COLUMNS,), dtype=tl.float32)
    for start in range(first, end, ROWS):
        r = start + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & (c < channels)[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        count = tl.minimum(end - start, ROWS).to(tl.float32)
        before = (start - first).to(tl.float32)
        tile_mean = tl.sum(value, axis=0) / count
        away = tl.where(inside, value - tile_mean[None, :], 0.0)
        delta = tile_mean - mean
        mean += delta * (count / (before + count))
        deviation += tl.sum(away * away, axis=0)
        deviation += delta * delta * (before * count / (before + count))
    at = tl.program_id(0) * channels + c
    tl.store(means + at, mean, mask=c < channels)
    tl.store(deviations + at, deviation, mask=c < channels)


@triton.jit
def apply_kernel(
    x, residual, weight, bias, means, deviations, y, mean_of, inverse_of, running_mean, running_var,
    pixels, channels, per_part, parts, momentum, eps, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = c < channels
    mean = tl.zeros((COLUMNS,), dtype=tl.float32)
    for i in range(0, parts, PARTS):
        part = i + tl.arange(0, PARTS)
        at = part[:, None] * channels + c[None, :]
        there = (part < parts)[:, None] & valid[None, :]
        n = tl.minimum(pixels - part * per_part, per_part).to(tl.float32)[:, None]
        mean += tl.sum(n * tl.load(means + at, mask=there, other=0.0), axis=0)
    mean = mean / pixels
    variance = tl.zeros((COLUMNS,), dtype=tl.float32)
    for i in range(0, parts, PARTS):
        part = i + tl.arange(0, PARTS)
        at = part[:, None] * channels + c[None, :]
        there = (part < parts)[:, None] & valid[None, :]
        n = tl.minimum(pixels - part * per_part, per_part).to(tl.float32)[:, None]
        away = tl.where(there, tl.load(means + at, mask=there, other=0.0) - mean[None, :], 0.0)
        variance += tl.sum(tl.load(deviations + at, mask=there, other=0.0), axis=0)
        variance += tl.sum(n * away * away, axis=0)
    variance = variance / pixels
    inverse = 1 / tl.sqrt(variance + eps)
    if tl.program_id(0) == 0:
        tl.store(mean_of + c, mean, mask=valid)
        tl.store(inverse_of + c, inverse, mask=valid)
        unbiased = variance * (pixels / (pixels - 1.0))
        old = tl.load(running_mean + c, mask=valid, other=0.0)
        tl.store(running_mean + c, old + momentum * (mean - old), mask=valid)
        old = tl.load(running_var + c, mask=valid, other=0.0)
        tl.store(running_var + c, old + momentum * (unbiased - old), mask=valid)
    factor = inverse * tl.load(weight + c, mask=valid, other=0.0)
    shift = tl.load(bias + c, mask=valid, other=0.0)
    first = tl.program_id(0) * per_part
    end = tl.minimum(first + per_part, pixels)
    for start in range(first, end, ROWS):
        r = start + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & valid[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        value = (value - mean[None, :]) * factor[None, :] + shift[None, :]
        if RESIDUAL:
            value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            value = tl.where(value < 0, 0.0, value)  # a NaN stays
        tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gated(gradient, value, weight, bias, mean, inverse, place, inside, RELU: tl.constexpr):
    """(gradient, normalised value); with RELU the gradient of what the ReLU took."""
    g = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(value + place, mask=inside, other=0.0).to(tl.float32)
    normalised = tl.where(inside, (v - mean[None, :]) * inverse[None, :], 0.0)
    if RELU:
        w, b = weight[None, :], bias[None, :]
        g = tl.where(normalised * w + b <= 0, 0.0, g)
    return g, normalised


@triton.jit
def sums_kernel(
    gradient, x, weight, bias, mean_of, inverse_of, sums, products, pixels, channels, per_part,
    RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each part of the pixels: Σ g and Σ g · x̂."""
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = c < channels
    mean = tl.load(mean_of + c, mask=valid, other=0.0)
    inverse = tl.load(inverse_of + c, mask=valid, other=0.0)
    w, b = tl.load(weight + c, mask=valid, other=0.0), tl.load(bias + c, mask=valid, other=0.0)
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    product = tl.zeros((COLUMNS,), dtype=tl.float32)
    first = tl.program_id(0) * per_part
    end = tl.minimum(first + per_part, pixels)
    for start in range(first, end, ROWS):
        r = start + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & valid[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        g, normalised = _gated(gradient, x, w, b, mean, inverse, place, inside, RELU)
        total += tl.sum(g, axis=0)
        product += tl.sum(g * normalised, axis=0)
    at = tl.program_id(0) * channels + c
    tl.store(sums + at, total, mask=valid)
    tl.store(products + at, product, mask=valid)


@triton.jit
def gradient_kernel(
    gradient, x, weight, bias, mean_of, inverse_of, sums, products, of_x, of_weight, of_bias,
    pixels, channels, per_part, parts, RELU: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = c < channels
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    product = tl.zeros((COLUMNS,), dtype=tl.float32)
    for i in range(0, parts, PARTS):
        part = i + tl.arange(0, PARTS)
        at = part[:, None] * channels + c[None, :]
        there = (part < parts)[:, None] & valid[None, :]
        total += tl.sum(tl.load(sums + at, mask=there, other=0.0), axis=0)
        product += tl.sum(tl.load(products + at, mask=there, other=0.0), axis=0)
    if tl.program_id(0) == 0:
        tl.store(of_weight + c, product, mask=valid)
        tl.store(of_bias + c, total, mask=valid)
    mean = tl.load(mean_of + c, mask=valid, other=0.0)
    inverse = tl.load(inverse_of + c, mask=valid, other=0.0)
    w, b = tl.load(weight + c, mask=valid, other=0.0), tl.load(bias + c, mask=valid, other=0.0)
    total, product = total / pixels, product / pixels
    first = tl.program_id(0) * per_part
    end = tl.minimum(first + per_part, pixels)
    for start in range(first, end, ROWS):
        r = start + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & valid[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        g, normalised = _gated(gradient, x, w, b, mean, inverse, place, inside, RELU)
        value = (g - total[None, :] - normalised * product[None, :]) * (inverse * w)[None, :]
        tl.store(of_x + place, value.to(of_x.dtype.element_ty), mask=inside)


def _split(pixels: int, channels: int) -> tuple[int, dict[str, int]]:
    """(blocks of channels, sizes) that give about `_PROGRAMS` parts, each of whole tiles."""
    blocks = cdiv(channels, _TILE["COLUMNS"])
    per_part = cdiv(cdiv(pixels, max(1, _PROGRAMS // blocks)), _TILE["ROWS"]) * _TILE["ROWS"]
    return blocks, {"pixels": pixels, "channels": channels, "per_part": per_part}


def forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    relu: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the mean and inverse standard deviation of each channel; changes the running
    statistics.

    x and residual: [P,N] contiguous; the vectors [N] float32.
    """
    blocks, sizes = _split(*x.shape)
    parts = cdiv(sizes["pixels"], sizes["per_part"])
    means, deviations = weight.new_empty((2, parts, x.shape[1])).unbind()
    statistics_kernel[(parts, blocks)](
        x=x, means=means, deviations=deviations, **sizes, **_TILE, num_warps=_WARPS
    )
    y, (mean, inverse) = x.new_empty(x.shape), weight.new_empty((2, x.shape[1])).unbind()
    apply_kernel[(parts, blocks)](
        x=x,
        residual=x if residual is None else residual,
        weight=weight,
        bias=bias,
        means=means,
        deviations=deviations,
        y=y,
        mean_of=mean,
        inverse_of=inverse,
        running_mean=running_mean,
        running_var=running_var,
        **sizes,
        parts=parts,
        momentum=momentum,
        eps=eps,
        RESIDUAL=residual is not None,
        RELU=relu,
        **_TILE,
        PARTS=_PARTS,
        num_warps=_WARPS,
    )
    return y, mean, inverse


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    *,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x [P,N], weight and bias. relu: y was a ReLU of the norm alone."""
    blocks, sizes = _split(*x.shape)
    parts = cdiv(sizes["pixels"], sizes["per_part"])
    sums, products = weight.new_empty((2, parts, x.shape[1])).unbind()
    given = {
        **{"gradient": gradient, "x": x, "weight": weight, "bias": bias},
        **{"mean_of": mean, "inverse_of": inverse, "sums": sums, "products": products},
    }
    sums_kernel[(parts, blocks)](**given, **sizes, RELU=relu, **_TILE, num_warps=_WARPS)
    of_x, (of_weight, of_bias) = x.new_empty(x.shape), weight.new_empty((2, x.shape[1])).unbind()
    gradient_kernel[(parts, blocks)](
        **given,
        of_x=of_x,
        of_weight=of_weight,
        of_bias=of_bias,
        **sizes,
        parts=parts,
        RELU=relu,
        **_TILE,
        PARTS=_PARTS,
        num_warps=_WARPS,
    )
    return of_x, of_weight, of_bias


def _launches() -> tuple[Launch, ...]:
    """Of 1280×720 images, behind the last convolution of a bottleneck and behind the others."""
    found = []
    float32 = torch.float32
    for dtype, last in ((torch.bfloat16, False), (torch.bfloat16, True), (float32, True)):
        _, sizes = _split(8 * 91 * 161, 1024 if last else 256)
        parts = {"parts": cdiv(sizes["pixels"], sizes["per_part"])}
        name = f"{str(dtype).removeprefix('torch.')}{' residual' if last else ''}"
        vectors = dict.fromkeys(("weight", "bias", "mean_of", "inverse_of"), float32)
        partial = {"means": float32, "deviations": float32}
        sums = dict.fromkeys(("sums", "products"), float32)
        backward = {"gradient": dtype, "x": dtype, **vectors, **sums, **sizes}
        relu = {"RELU": not last}

        def add(
            what: str, kernel: Any, given: dict[str, Any], flags: dict[str, Any], name: str = name
        ) -> None:
            found.append(Launch(f"{what} {name}", kernel, given, flags, _WARPS, wide=True))

        add("statistics", statistics_kernel, {"x": dtype, **partial, **sizes}, _TILE)
        running = {"running_mean": float32, "running_var": float32, "momentum": 0.1, "eps": 1e-5}
        add(
            "apply",
            apply_kernel,
            {"x": dtype, "residual": dtype, "y": dtype}
            | {**vectors, **partial, **running, **sizes, **parts},
            {"RESIDUAL": last, "RELU": True, **_TILE, "PARTS": _PARTS},
        )
        add("sums", sums_kernel, backward, {**relu, **_TILE})
        results = {"of_x": dtype, "of_weight": float32, "of_bias": float32}
        flags = {**relu, **_TILE, "PARTS": _PARTS}
        add("gradient", gradient_kernel, {**backward, **results, **parts}, flags)
    return tuple(found)


AOT = _launches()
