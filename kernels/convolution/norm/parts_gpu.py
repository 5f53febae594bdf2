"""What many programs found in their parts of the pixels, put together by the last of them.

Every program stores its part and draws a ticket. Whoever draws the last ticket of a block of
channels knows that all of the block's parts are stored, and merges them in a fixed order: the
result does not depend on which program that is. It costs no launch, and later kernels read one
vector instead of all parts. The last program puts its counter back to zero for the next launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.launch import cdiv
from fastass.kernels.layout import kept_with

PARTS = 32  # merged at a time
_NARROWEST = 64  # channels of a block, at least
_PROGRAMS = 1024  # about so many, to fill a GPU
_TICKETS = "_fastass_tickets"  # the attribute of a norm's weight


@triton.jit
def is_last(ticket, programs):
    """Whether all `programs` have come here; what they stored before is visible then."""
    tl.debug_barrier()  # all threads of this program have stored
    last = tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(ticket, 0)
    return last


@triton.jit
def add_tile(mean, deviation, value, inside, before, count):
    """Mean and sum of squared deviations of `before` pixels and a tile of `count` more (Chan,
    Golub and LeVeque 1979). value: zero where it is not inside."""
    tile_mean = tl.sum(value, axis=0) / count
    away = tl.where(inside, value - tile_mean[None, :], 0.0)
    delta = tile_mean - mean
    mean += delta * (count / (before + count))
    deviation += tl.sum(away * away, axis=0)
    deviation += delta * delta * (before * count / (before + count))
    return mean, deviation


@triton.jit
def finish_moments(
    mean, deviation, means, deviations, mean_of, variance_of, ticket, part, c, valid,
    pixels, channels, per_part, parts, PARTS: tl.constexpr,
):  # fmt: skip
    """Store the moments of a part; the last program stores the mean and variance of them all.

    Means are taken relative to the first part's, which keeps the digits of large ones.
    """
    tl.store(means + part * channels + c, mean, mask=valid)
    tl.store(deviations + part * channels + c, deviation, mask=valid)
    if is_last(ticket, parts):
        pivot = tl.load(means + c, mask=valid, other=0.0, cache_modifier=".cg")
        total = tl.zeros_like(mean)
        squares = tl.zeros_like(mean)
        for i in range(0, parts, PARTS):
            k = i + tl.arange(0, PARTS)
            at = k[:, None] * channels + c[None, :]
            there = (k < parts)[:, None] & valid[None, :]
            of_part = tl.load(means + at, mask=there, other=0.0, cache_modifier=".cg")
            within = tl.load(deviations + at, mask=there, other=0.0, cache_modifier=".cg")
            away = tl.where(there, of_part - pivot[None, :], 0.0)
            n = tl.minimum(pixels - k * per_part, per_part).to(tl.float32)[:, None]
            total += tl.sum(n * away, axis=0)
            squares += tl.sum(within + n * away * away, axis=0)
        shift = total / pixels
        tl.store(mean_of + c, pivot + shift, mask=valid)
        tl.store(variance_of + c, squares / pixels - shift * shift, mask=valid)


@triton.jit
def finish_sums(
    total, product, totals, products, total_of, product_of, ticket, part, c, valid,
    channels, parts, PARTS: tl.constexpr,
):  # fmt: skip
    """Store the two sums of a part; the last program stores those of all parts."""
    tl.store(totals + part * channels + c, total, mask=valid)
    tl.store(products + part * channels + c, product, mask=valid)
    if is_last(ticket, parts):
        total = tl.zeros_like(total)
        product = tl.zeros_like(total)
        for i in range(0, parts, PARTS):
            k = i + tl.arange(0, PARTS)
            at = k[:, None] * channels + c[None, :]
            there = (k < parts)[:, None] & valid[None, :]
            one = tl.load(totals + at, mask=there, other=0.0, cache_modifier=".cg")
            other = tl.load(products + at, mask=there, other=0.0, cache_modifier=".cg")
            total += tl.sum(one, axis=0)
            product += tl.sum(other, axis=0)
        tl.store(total_of + c, total, mask=valid)
        tl.store(product_of + c, product, mask=valid)


def split(pixels: int, channels: int, rows: int, columns: int) -> tuple[int, dict[str, int]]:
    """(blocks of channels, sizes) that give about `_PROGRAMS` parts, each of whole tiles."""
    blocks = cdiv(channels, columns)
    per_part = cdiv(cdiv(pixels, max(1, _PROGRAMS // blocks)), rows) * rows
    return blocks, {
        **{"pixels": pixels, "channels": channels},
        **{"per_part": per_part, "parts": cdiv(pixels, per_part)},
    }


def tickets_of(weight: Tensor) -> Tensor:
    """A counter per block of channels, zero between launches; kept with the norm's weight [N]."""
    count = cdiv(weight.shape[0], _NARROWEST)
    return kept_with(weight, _TICKETS, lambda: weight.new_zeros(count, dtype=torch.int32))


def room_for_moments(weight: Tensor, parts: int) -> dict[str, Tensor]:
    """The tensors of `finish_moments` by name. weight: of the norm [N]."""
    means, deviations = weight.new_empty((2, parts, weight.shape[0])).unbind()
    mean, variance = weight.new_empty((2, weight.shape[0])).unbind()
    return {
        **{"means": means, "deviations": deviations, "mean_of": mean, "variance_of": variance},
        "tickets": tickets_of(weight),
    }
