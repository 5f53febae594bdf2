"""Triton kernels of a training batch norm over pixels × channels [P, N], for `op.py`.

Forward: `statistics_kernel` reduces the pixels, `apply_kernel` normalises. Backward: `sums_kernel`
and `gradient_kernel` do the same for the gradient's two sums. So a map is read twice and written
once in each direction. All arithmetic is in float32; parts of the pixels are merged in a fixed
order (`parts_gpu.py`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.convolution.norm.parts_gpu import (
    PARTS,
    add_tile,
    finish_moments,
    finish_sums,
    room_for_moments,
    split,
    tickets_of,
)

_TILE: dict[str, Any] = {"ROWS": 64, "COLUMNS": 64}
_WARPS = 8


@triton.jit
def statistics_kernel(
    x, means, deviations, mean_of, variance_of, tickets, pixels, channels, per_part, parts,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    part, block = tl.program_id(0), tl.program_id(1)
    c = block * COLUMNS + tl.arange(0, COLUMNS)
    valid = c < channels
    first = part * per_part
    end = tl.minimum(first + per_part, pixels)
    mean = tl.zeros((COLUMNS,), dtype=tl.float32)
    deviation = tl.zeros((COLUMNS,), dtype=tl.float32)
    for start in range(first, end, ROWS):
        r = start + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & valid[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        count = tl.minimum(end - start, ROWS).to(tl.float32)
        before = (start - first).to(tl.float32)
        mean, deviation = add_tile(mean, deviation, value, inside, before, count)
    finish_moments(
        mean, deviation, means, deviations, mean_of, variance_of, tickets + block, part, c, valid,
        pixels, channels, per_part, parts, PARTS,
    )  # fmt: skip


@triton.jit
def apply_kernel(
    x, residual, weight, bias, mean_of, variance_of, y, inverse_of, running_mean, running_var,
    pixels, channels, per_part, momentum, eps, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = c < channels
    mean = tl.load(mean_of + c, mask=valid, other=0.0)
    variance = tl.load(variance_of + c, mask=valid, other=0.0)
    inverse = 1 / tl.sqrt(variance + eps)
    if tl.program_id(0) == 0:
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
    gradient, x, weight, bias, mean_of, inverse_of, totals, products, of_weight, of_bias, tickets,
    pixels, channels, per_part, parts, RELU: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Σ g · x̂ and Σ g, the gradients of weight and bias."""
    part, block = tl.program_id(0), tl.program_id(1)
    c = block * COLUMNS + tl.arange(0, COLUMNS)
    valid = c < channels
    mean = tl.load(mean_of + c, mask=valid, other=0.0)
    inverse = tl.load(inverse_of + c, mask=valid, other=0.0)
    w, b = tl.load(weight + c, mask=valid, other=0.0), tl.load(bias + c, mask=valid, other=0.0)
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    product = tl.zeros((COLUMNS,), dtype=tl.float32)
    first = part * per_part
    end = tl.minimum(first + per_part, pixels)
    for start in range(first, end, ROWS):
        r = start + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & valid[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        g, normalised = _gated(gradient, x, w, b, mean, inverse, place, inside, RELU)
        total += tl.sum(g, axis=0)
        product += tl.sum(g * normalised, axis=0)
    finish_sums(
        total, product, totals, products, of_bias, of_weight, tickets + block, part, c, valid,
        channels, parts, PARTS,
    )  # fmt: skip


@triton.jit
def gradient_kernel(
    gradient, x, weight, bias, mean_of, inverse_of, of_weight, of_bias, of_x,
    pixels, channels, per_part, RELU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    valid = c < channels
    mean = tl.load(mean_of + c, mask=valid, other=0.0)
    inverse = tl.load(inverse_of + c, mask=valid, other=0.0)
    w, b = tl.load(weight + c, mask=valid, other=0.0), tl.load(bias + c, mask=valid, other=0.0)
    total = tl.load(of_bias + c, mask=valid, other=0.0) / pixels
    product = tl.load(of_weight + c, mask=valid, other=0.0) / pixels
    first = tl.program_id(0) * per_part
    end = tl.minimum(first + per_part, pixels)
    for start in range(first, end, ROWS):
        r = start + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & valid[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        g, normalised = _gated(gradient, x, w, b, mean, inverse, place, inside, RELU)
        value = (g - total[None, :] - normalised * product[None, :]) * (inverse * w)[None, :]
        tl.store(of_x + place, value.to(of_x.dtype.element_ty), mask=inside)


def _split(x: Tensor) -> tuple[tuple[int, int], dict[str, int], int]:
    """(programs, sizes, parts)."""
    blocks, sizes = split(*x.shape, *_TILE.values())
    parts = sizes.pop("parts")
    return (parts, blocks), sizes, parts


def moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, [N] float32. x: [P,N] contiguous; weight: of the norm."""
    programs, sizes, parts = _split(x)
    found = room_for_moments(weight, parts)
    statistics_kernel[programs](
        x=x,
        **found,
        **sizes,
        parts=parts,
        **_TILE,
        PARTS=PARTS,
        num_warps=_WARPS,
    )
    return found["mean_of"], found["variance_of"]


def apply(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    relu: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """y, and the inverse standard deviation of each channel; changes the running statistics.

    x and residual: [P,N] contiguous; the vectors [N] float32.
    """
    programs, sizes, _ = _split(x)
    y, inverse = x.new_empty(x.shape), torch.empty_like(mean)
    apply_kernel[programs](
        x=x,
        residual=x if residual is None else residual,
        weight=weight,
        bias=bias,
        mean_of=mean,
        variance_of=variance,
        y=y,
        inverse_of=inverse,
        running_mean=running_mean,
        running_var=running_var,
        **sizes,
        momentum=momentum,
        eps=eps,
        RESIDUAL=residual is not None,
        RELU=relu,
        **_TILE,
        num_warps=_WARPS,
    )
    return y, inverse


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
    programs, sizes, parts = _split(x)
    totals, products = weight.new_empty((2, parts, x.shape[1])).unbind()
    of_x, (of_weight, of_bias) = x.new_empty(x.shape), weight.new_empty((2, x.shape[1])).unbind()
    given = {
        **{"gradient": gradient, "x": x, "weight": weight, "bias": bias, "mean_of": mean},
        **{"inverse_of": inverse, "of_weight": of_weight, "of_bias": of_bias},
    }
    sums_kernel[programs](
        **given,
        totals=totals,
        products=products,
        tickets=tickets_of(weight),
        **sizes,
        parts=parts,
        RELU=relu,
        **_TILE,
        PARTS=PARTS,
        num_warps=_WARPS,
    )
    gradient_kernel[programs](**given, of_x=of_x, **sizes, RELU=relu, **_TILE, num_warps=_WARPS)
    return of_x, of_weight, of_bias


def _launches() -> tuple[Launch, ...]:
    """Of 1280×720 images, behind the last convolution of a bottleneck and behind the others."""
    found = []
    float32 = torch.float32
    for dtype, last in ((torch.bfloat16, False), (torch.bfloat16, True), (float32, True)):
        _, sizes = split(8 * 91 * 161, 1024 if last else 256, *_TILE.values())
        parts = {"parts": sizes.pop("parts"), "tickets": torch.int32}
        name = f"{str(dtype).removeprefix('torch.')}{' residual' if last else ''}"

        def vectors(*names: str) -> dict[str, Any]:
            return dict.fromkeys(names, float32)

        def add(
            what: str, kernel: Any, given: dict[str, Any], flags: dict[str, Any], name: str = name
        ) -> None:
            flags = {**flags, **_TILE}
            found.append(Launch(f"{what} {name}", kernel, given, flags, _WARPS, wide=True))

        of_parts = vectors("means", "deviations", "mean_of", "variance_of")
        given = {"x": dtype, **of_parts, **parts, **sizes}
        add("statistics", statistics_kernel, given, {"PARTS": PARTS})
        running = vectors("inverse_of", "running_mean", "running_var")
        given = {"x": dtype, "residual": dtype, "y": dtype, **running, **sizes}
        given |= vectors("weight", "bias", "mean_of", "variance_of")
        given |= {"momentum": 0.1, "eps": 1e-5}
        add("apply", apply_kernel, given, {"RESIDUAL": last, "RELU": True})
        relu = {"RELU": not last}
        given = {"gradient": dtype, "x": dtype, **sizes}
        given |= vectors("weight", "bias", "mean_of", "inverse_of", "of_weight", "of_bias")
        sums = {**given, **vectors("totals", "products"), **parts}
        add("sums", sums_kernel, sums, {**relu, "PARTS": PARTS})
        add("gradient", gradient_kernel, {**given, "of_x": dtype}, relu)
    return tuple(found)


AOT = _launches()
