"""Triton kernel of a 1×1 convolution that also takes its output's batch statistics:

    y[p,m] = Σ_n x[p,n] · weight[m,n],  and the mean and variance of each y[:,m]

for pixels p. It saves a norm the reading of y for its statistics, and their kernel. The statistics
are those of the rounded y, in float32, merged as in `parts_gpu.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.convolution.fused.pointwise_gpu import STAGES, WARPS, product
from fastass.kernels.convolution.fused.pointwise_gpu import tiles as larger_tiles
from fastass.kernels.convolution.norm.parts_gpu import (
    PARTS,
    add_tile,
    finish_moments,
    room_for_moments,
    split,
)


@triton.jit
def _kernel(
    x, weight, y, means, deviations, mean_of, variance_of, tickets,
    pixels, inputs, channels, of_output, of_input, per_part, parts, PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, INTERPRET: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Programs of the same pixels run together: they read x once from memory."""
    columns = channels // OUTPUTS
    part, block = tl.program_id(0) // columns, tl.program_id(0) % columns
    m = block * OUTPUTS + tl.arange(0, OUTPUTS)
    first = part * per_part
    end = tl.minimum(first + per_part, pixels)
    mean = tl.zeros((OUTPUTS,), dtype=tl.float32)
    deviation = tl.zeros((OUTPUTS,), dtype=tl.float32)
    for start in range(first, end, PIXELS):
        p = start + tl.arange(0, PIXELS)
        inside = (p < end)[:, None]
        total = product(
            x, weight, p, m, inside, inputs, of_output, of_input, PIXELS, OUTPUTS, INPUTS, INTERPRET
        )
        made = total.to(y.dtype.element_ty)
        tl.store(y + p[:, None].to(tl.int64) * channels + m[None, :], made, mask=inside)
        count = tl.minimum(end - start, PIXELS).to(tl.float32)
        before = (start - first).to(tl.float32)
        mean, deviation = add_tile(mean, deviation, made.to(tl.float32), inside, before, count)
    finish_moments(
        mean, deviation, means, deviations, mean_of, variance_of, tickets + block, part, m,
        m < channels, pixels, channels, per_part, parts, PARTS,
    )  # fmt: skip


def _tiles(outputs: int) -> dict[str, Any]:
    """With half the pixels of a plain product's: its statistics would spill registers."""
    return {**larger_tiles(outputs), "PIXELS": 64}


def pointwise(x: Tensor, weight: Tensor, of_norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y [P,M], mean and variance [M] float32.

    x [P,N] contiguous, weight [M,N] in its dtype, both counts multiples of 64; of_norm: the norm's
    weight [M].
    """
    (pixels, inputs), outputs = x.shape, weight.shape[0]
    tile = _tiles(outputs)
    columns, sizes = split(pixels, outputs, tile["PIXELS"], tile["OUTPUTS"])
    y = x.new_empty((pixels, outputs))
    found = room_for_moments(of_norm, sizes["parts"])
    _kernel[(sizes["parts"] * columns,)](
        x=x,
        weight=weight,
        y=y,
        **found,
        inputs=inputs,
        of_output=weight.stride(0),
        of_input=weight.stride(1),
        **sizes,
        **tile,
        PARTS=PARTS,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return y, found["mean_of"], found["variance_of"]


def _launch(dtype: torch.dtype, inputs: int, outputs: int) -> Launch:
    tile = _tiles(outputs)
    _, sizes = split(8 * 91 * 161, outputs, tile["PIXELS"], tile["OUTPUTS"])
    vectors = dict.fromkeys(("means", "deviations", "mean_of", "variance_of"), torch.float32)
    maps = dict.fromkeys(("x", "weight", "y"), dtype)
    strides = {"inputs": inputs, "of_output": inputs, "of_input": 1}
    given = {**maps, **vectors, "tickets": torch.int32, **strides, **sizes}
    name = f"{str(dtype).removeprefix('torch.')} {inputs} to {outputs}"
    constants = {**tile, "PARTS": PARTS}
    return Launch(name, _kernel, given, constants, WARPS, STAGES, dot=True, wide=True)


# Of 1280×720 images: a bottleneck's last and first convolutions, and the narrowest layer.
AOT = tuple(
    _launch(dtype, inputs, outputs)
    for dtype in (torch.bfloat16, torch.float16)
    for inputs, outputs in ((256, 1024), (1024, 256), (256, 64))
)
