"""Triton kernel of a convolution's epilogue: `fastass.kernels.convolution.epilogue` has the
contract. Memory traffic bounds it, so each map is read or written once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch
from fastass.kernels.launch import cdiv, power_of_2

_ELEMENTS = 4096  # of a program
_WARPS = 8


@triton.jit
def _kernel(
    x, bias, residual, gate, rows, columns, channels, LAST: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, RELU: tl.constexpr, GATE: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """The map as a matrix: pixels × channels where channels are LAST, else channels × pixels."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (r < rows)[:, None] & (c < columns)[None, :]
    place = r[:, None].to(tl.int64) * columns + c[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        if LAST:
            value += tl.load(bias + c, mask=c < columns, other=0.0).to(tl.float32)[None, :]
        else:
            value += tl.load(bias + r % channels).to(tl.float32)[:, None]
    if RESIDUAL:
        value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        value = tl.where(value < 0, 0.0, value)  # a NaN stays
    if GATE:
        output = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(output <= 0, 0.0, value)
    tl.store(x + place, value.to(x.dtype.element_ty), mask=inside)


def _tiles(columns: int) -> dict[str, int]:
    width = min(256, power_of_2(columns))
    return {"ROWS": _ELEMENTS // width, "COLUMNS": width}


def _matrix(shape: tuple[int, ...], last: bool) -> dict[str, int]:
    B, N, h, w = shape
    rows, columns = (B * h * w, N) if last else (B * N, h * w)
    return {"rows": rows, "columns": columns, "channels": N}


def epilogue_(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    last: bool,
    gate: Tensor | None,
) -> None:
    """In place. The maps are dense in the same layout, channels-last or not."""
    matrix = _matrix(tuple(x.shape), last)
    tiles = _tiles(matrix["columns"])
    grid = (cdiv(matrix["rows"], tiles["ROWS"]), cdiv(matrix["columns"], tiles["COLUMNS"]))
    _kernel[grid](
        x=x,
        bias=x if bias is None else bias,
        residual=x if residual is None else residual,
        gate=x if gate is None else gate,
        **matrix,
        LAST=last,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        RELU=relu,
        GATE=gate is not None,
        **tiles,
        num_warps=_WARPS,
    )


def _launch(dtype: torch.dtype, last: bool, residual: bool, gate: bool = False) -> Launch:
    matrix = _matrix((1, 1024, 91, 161), last)
    name = f"{str(dtype).removeprefix('torch.')} channels {'last' if last else 'first'}"
    constants: dict[str, Any] = {
        "LAST": last,
        "BIAS": not gate,
        "RESIDUAL": residual,
        "RELU": not gate,
        "GATE": gate,
        **_tiles(matrix["columns"]),
    }
    return Launch(
        f"{name}{' residual' if residual else ''}{' gate' if gate else ''}",
        _kernel,
        {"x": dtype, "bias": torch.float32, "residual": dtype, "gate": dtype, **matrix},
        constants,
        _WARPS,
        # A row of 91 · 161 pixels is not a multiple of 16 bytes.
        wide=last,
    )


AOT = (
    _launch(torch.bfloat16, True, False),
    _launch(torch.bfloat16, True, True),
    _launch(torch.float16, True, True),
    _launch(torch.float32, True, True),
    _launch(torch.bfloat16, False, True),
    _launch(torch.bfloat16, True, True, gate=True),
    _launch(torch.float32, True, False, gate=True),
)
