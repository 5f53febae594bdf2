"""Triton kernel of a 1×1 convolution with its epilogue, forward and for the input's gradient:

    y[p,m] = epilogue(Σ_n x[p,n] · weight[m,n]),  with bias, residual, ReLU or gate

for pixels p. `fastass.kernels.convolution.epilogue` has the epilogue's contract. Sums are taken in
float32; y is rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.launch import cdiv, interpreting

_CHANNELS = 64  # inputs and outputs are multiples of it
WARPS, STAGES = 8, 3


@triton.jit
def product(
    x, weight, p, m, inside, inputs, of_output, of_input,
    PIXELS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Σ_n x[p,n] · weight[m,n] in float32. of_output, of_input: strides of the weight."""
    n = tl.arange(0, INPUTS)
    of_x = x + p[:, None].to(tl.int64) * inputs + n[None, :]
    of_weight = weight + m[None, :] * of_output + n[:, None] * of_input
    total = tl.zeros((PIXELS, OUTPUTS), dtype=tl.float32)
    for _ in range(0, inputs, INPUTS):
        a = tl.load(of_x, mask=inside, other=0.0)
        b = tl.load(of_weight)
        if INTERPRET:
            total += tl.dot(a.to(tl.float32), b.to(tl.float32))
        else:
            total = tl.dot(a, b, total)
        of_x += INPUTS
        of_weight += INPUTS * of_input
    return total


@triton.jit
def _kernel(
    x, weight, bias, residual, gate, y, pixels, inputs, outputs, of_output, of_input,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr, GATE: tl.constexpr,
    PIXELS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Programs of the same pixels run together: they read x once from memory."""
    columns = outputs // OUTPUTS
    p = (tl.program_id(0) // columns) * PIXELS + tl.arange(0, PIXELS)
    m = (tl.program_id(0) % columns) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = (p < pixels)[:, None]
    total = product(
        x, weight, p, m, inside, inputs, of_output, of_input, PIXELS, OUTPUTS, INPUTS, INTERPRET
    )
    place = p[:, None].to(tl.int64) * outputs + m[None, :]
    if BIAS:
        total += tl.load(bias + m).to(tl.float32)[None, :]
    if RESIDUAL:
        total += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # a NaN stays
    if GATE:
        output = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
        total = tl.where(output <= 0, 0.0, total)
    tl.store(y + place, total.to(y.dtype.element_ty), mask=inside)


def tiles(outputs: int) -> dict[str, Any]:
    width = 128 if outputs % 128 == 0 else 64
    return {"PIXELS": 128, "OUTPUTS": width, "INPUTS": _CHANNELS, "INTERPRET": interpreting()}


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gate: Tensor | None,
    relu: bool,
) -> Tensor:
    """y [P,M]. x [P,N], residual and gate [P,M] are contiguous, weight [M,N] has any strides."""
    (pixels, inputs), outputs = x.shape, weight.shape[0]
    y = x.new_empty((pixels, outputs))
    tile = tiles(outputs)
    _kernel[(cdiv(pixels, tile["PIXELS"]) * (outputs // tile["OUTPUTS"]),)](
        x=x,
        weight=weight,
        bias=x if bias is None else bias,
        residual=x if residual is None else residual,
        gate=x if gate is None else gate,
        y=y,
        pixels=pixels,
        inputs=inputs,
        outputs=outputs,
        of_output=weight.stride(0),
        of_input=weight.stride(1),
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        RELU=relu,
        GATE=gate is not None,
        **tile,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return y


def _launch(dtype: torch.dtype, inputs: int, outputs: int, residual: bool, gate: bool) -> Launch:
    """Forward with a residual or without, or, gated, the gradient of the input."""
    maps = dict.fromkeys(("x", "weight", "residual", "gate", "y"), dtype)
    sizes = {"pixels": 8 * 91 * 161, "inputs": inputs, "outputs": outputs}
    strides = (1, outputs) if gate else (inputs, 1)
    flags = {"BIAS": not gate, "RESIDUAL": residual, "RELU": not gate, "GATE": gate}
    return Launch(
        f"{str(dtype).removeprefix('torch.')} {inputs} to {outputs}"
        f"{' residual' if residual else ''}{' gate' if gate else ''}",
        _kernel,
        {
            **maps,
            "bias": torch.float32,
            **sizes,
            **dict(zip(("of_output", "of_input"), strides, strict=True)),
        },
        {**flags, **tiles(outputs), "INTERPRET": False},
        WARPS,
        STAGES,
        dot=True,
        wide=True,
    )


AOT = (
    _launch(torch.bfloat16, 1024, 256, False, False),
    _launch(torch.bfloat16, 256, 1024, True, False),
    _launch(torch.bfloat16, 256, 1024, True, True),
    _launch(torch.bfloat16, 1024, 256, False, True),
    _launch(torch.bfloat16, 256, 64, False, False),
    _launch(torch.float16, 256, 1024, True, True),
)
