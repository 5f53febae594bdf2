"""Launches of softmax and cross-entropy of bilinearly upsampled scores in Triton.

`fastass.kernels.upsample.softmax` and `cross_entropy` have the contracts. Up to 32 classes are the
work of `gpu.columns`, more of `gpu.tiles`; P is written by `gpu.probabilities`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastass.kernels.aot.launch_spec import Bounds, Launch
from fastass.kernels.checks import MAX_CLASSES
from fastass.kernels.launch import cdiv, power_of_2
from fastass.kernels.upsample.gpu import columns as gpu_columns
from fastass.kernels.upsample.gpu import probabilities as gpu_probabilities
from fastass.kernels.upsample.gpu import tiles as gpu_tiles
from fastass.kernels.upsample.gpu.cells import (
    GATHER,
    cell_count,
    empty_sums,
    gather,
    gather_kernel,
    largest_cell,
)
from fastass.kernels.upsample.gpu.probabilities import write_probabilities

_Size = tuple[int, int]


def _in_columns(classes: int) -> bool:
    return classes <= gpu_columns.CLASSES_IN_REGISTERS


def _column_tiles(classes: int, inputs: _Size, outputs: _Size, align: bool) -> dict[str, int]:
    """A warp's lanes take whole cells; what a cell has beyond 32 columns are further phases."""
    held = largest_cell(inputs[1], outputs[1], align)
    lanes = min(power_of_2(held), 32)
    return {
        "CLASSES": classes,
        "CELLS": 32 // lanes,
        "LANES": lanes,
        "PHASES": cdiv(held, lanes),
        "ROWS": gpu_columns.ROWS,
        "ALIGN": int(align),
    }


def _product(classes: int, inputs: _Size, outputs: _Size, align: bool) -> int:
    """1 where the product of a cell's sums of `classes` terms, each at most 1, is below 2^126."""
    return int(classes ** largest_cell(inputs[0], outputs[0], align) < 2**126)


def _tile_tiles(classes: int, align: bool, weighted: bool = False) -> dict[str, int]:
    """16 cells a tile, so that some 16 tiles fit into the registers of 4 warps; 8 with weights."""
    padded, cells = power_of_2(classes, at_least=4), 8 if weighted else 16
    return {"CLASSES": classes, "PADDED": padded, "CELLS": cells, "ALIGN": int(align)}


def _grid(tiles: dict[str, int], batch: int, inputs: _Size) -> tuple[int, int, int]:
    align = bool(tiles["ALIGN"])
    segments = cell_count(inputs[1], align) * tiles.get("PHASES", 1)
    strips = cdiv(cell_count(inputs[0], align), tiles.get("ROWS", 1))
    return cdiv(segments, tiles["CELLS"]), strips, batch


def forward(
    scores: Tensor,
    labels: Tensor | None,
    size: _Size,
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
    full: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Weighted sum of losses (float64), valid pixels, the gradient of the sum (float32), P."""
    batch, classes = scores.shape[:2]
    inputs = (scores.shape[2], scores.shape[3])
    tiles = _tile_tiles(classes, align_corners, weighted=full is not None)
    options: dict[str, Any] = {"num_warps": 4}
    kernel = gpu_tiles.forward_kernel
    if _in_columns(classes):
        kernel = gpu_columns.forward_kernel
        tiles = _column_tiles(classes, inputs, size, align_corners)
        options = {"num_warps": 1, "PRODUCT": _product(classes, inputs, size, align_corners)}
    parts = (align_corners, tiles.get("ROWS", 1), tiles.get("PHASES", 1))
    grid = _grid(tiles, batch, inputs)
    programs = grid[0] * grid[1] * grid[2] if labels is not None else 0
    losses = scores.new_empty(programs, dtype=torch.float32)
    valid = scores.new_empty(programs, dtype=torch.int32)
    sums = empty_sums(scores, *parts) if need_gradient else None
    logarithms = (
        scores.new_empty((batch, *size), dtype=torch.float32) if need_probabilities else None
    )
    kernel[grid](
        scores, labels, full if full is None else full.view(torch.uint8), scale, losses, valid,
        sums, logarithms, *scores.stride(), *inputs, *size, **tiles, IGNORE=ignore_index,
        LABELS=labels is not None, WEIGHTS=full is not None, GRADIENT=need_gradient,
        LOGARITHMS=need_probabilities, **options,
    )  # fmt: skip
    gradient = gather(sums, scores, *parts) if sums is not None else None
    p = write_probabilities(scores, logarithms, align_corners) if logarithms is not None else None
    return losses.sum(dtype=torch.float64), valid.sum(), gradient, p


def backward(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    """Float32 gradient of the scores, given that of P."""
    batch, classes = scores.shape[:2]
    inputs, size = (scores.shape[2], scores.shape[3]), (incoming.shape[2], incoming.shape[3])
    kernel, tiles, warps = gpu_tiles.backward_kernel, _tile_tiles(classes, align_corners), 4
    if _in_columns(classes):
        kernel, warps = gpu_columns.backward_kernel, 1
        tiles = _column_tiles(classes, inputs, size, align_corners)
    parts = (align_corners, tiles.get("ROWS", 1), tiles.get("PHASES", 1))
    sums = empty_sums(scores, *parts)
    kernel[_grid(tiles, batch, inputs)](
        scores, incoming, sums, *scores.stride(), *incoming.stride(), *inputs, *size, **tiles,
        num_warps=warps,
    )  # fmt: skip
    return gather(sums, scores, *parts)


# --- what the gate compiles: 91×161 → 720×1280, channels last -------------------------------------

_INPUTS, _OUTPUTS = (91, 161), (720, 1280)
_CELL = 8  # rows and columns of a cell
_LOSS = ("labels", "losses", "valid")
_TRAINING = (*_LOSS, "sums")
_WEIGHTED = (*_TRAINING, "full", "scale")


def _aot_arguments(dtype: torch.dtype, classes: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Pointers by name, and the sizes and strides that every kernel takes."""
    dtypes = {"labels": torch.uint8, "full": torch.uint8, "valid": torch.int32}
    types = {name: dtypes.get(name, torch.float32) for name in names}
    for name in ("scores", "incoming", "probabilities"):
        if name in names:
            types[name] = dtype
    (h, w), (H, W) = _INPUTS, _OUTPUTS
    return {
        **types,
        **{"stride_b": h * w * classes, "stride_c": 1, "stride_h": w * classes},
        **{"stride_w": classes, "in_height": h, "in_width": w, "height": H, "width": W},
    }


def _aot_forward(
    name: str,
    dtype: torch.dtype,
    classes: int,
    align: bool,
    pointers: tuple[str, ...],
    instructions: float = 0,
    ctas: int = 1,
) -> Launch:
    """A launch of the forward kernel; those of its pointers that are not in `pointers` are None."""
    flags = {
        "IGNORE": 255,
        "LABELS": "labels" in pointers,
        "WEIGHTS": "full" in pointers,
        "GRADIENT": "sums" in pointers,
        "LOGARITHMS": "logarithms" in pointers,
    }
    given: dict[str, Any] = dict.fromkeys((*_WEIGHTED, "logarithms"))
    given |= _aot_arguments(dtype, classes, ("scores", *pointers))
    if not _in_columns(classes):
        constants = {**_tile_tiles(classes, align, "full" in pointers), **flags}
        return Launch(name, gpu_tiles.forward_kernel, given, constants, num_warps=4)
    tiles = _column_tiles(classes, _INPUTS, _OUTPUTS, align)
    product = {"PRODUCT": _product(classes, _INPUTS, _OUTPUTS, align)}
    kernel, constants = gpu_columns.forward_kernel, {**tiles, **product, **flags}
    bounds = _column_bounds(tiles, instructions, ctas)
    return Launch(name, kernel, given, constants, num_warps=1, bounds=bounds)


def _column_bounds(tiles: dict[str, int], instructions: float, ctas: int) -> Bounds:
    pixels = 32 * tiles["ROWS"] * _CELL
    return Bounds(ctas, instructions, pixels, trips=(tiles["ROWS"], _CELL))


def _aot_backward(
    name: str,
    dtype: torch.dtype,
    classes: int,
    align: bool,
    instructions: float = 0,
    ctas: int = 1,
) -> Launch:
    H, W = _OUTPUTS
    from_ = {"from_b": H * W * classes, "from_c": 1, "from_h": W * classes, "from_w": classes}
    given = {**_aot_arguments(dtype, classes, ("scores", "incoming", "sums")), **from_}
    if not _in_columns(classes):
        constants = _tile_tiles(classes, align)
        return Launch(name, gpu_tiles.backward_kernel, given, constants, num_warps=4)
    tiles = _column_tiles(classes, _INPUTS, _OUTPUTS, align)
    bounds = _column_bounds(tiles, instructions, ctas)
    return Launch(name, gpu_columns.backward_kernel, given, tiles, num_warps=1, bounds=bounds)


def _aot_probabilities(name: str, dtype: torch.dtype, classes: int, align: bool) -> Launch:
    block, rows = gpu_probabilities.BLOCK, gpu_probabilities.ROWS
    constants = {"CLASSES": classes, "ALIGN": int(align), "BLOCK": block, "ROWS": rows}
    return Launch(
        name,
        gpu_probabilities.probabilities_kernel,
        _aot_arguments(dtype, classes, ("scores", "logarithms", "probabilities")),
        constants,
        num_warps=4,
        bounds=Bounds(4, 0.5 * classes, block * rows * _CELL // classes, trips=(rows, _CELL)),
    )


def _aot_gather(name: str, classes: int, rows: int) -> Launch:
    arguments = {"sums": torch.float32, "gradient": torch.float32, "height": 91, "width": 161}
    constants = {"ROWS": rows, "PHASES": 1, "CLASSES": classes, "ALIGN": 1, "BLOCK": GATHER}
    return Launch(name, gather_kernel, arguments, constants, num_warps=4)


_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32
AOT = (
    _aot_forward("cross-entropy fp32", _FP32, 19, True, _TRAINING, 12, 10),
    _aot_forward("cross-entropy bf16", _BF16, 19, True, _TRAINING, 12, 10),
    _aot_forward("cross-entropy fp16 half-pixel", _FP16, 19, False, _TRAINING, 12, 10),
    _aot_forward("cross-entropy bf16 32 classes", _BF16, 32, True, _TRAINING, 20, 8),
    _aot_forward(f"cross-entropy bf16 {MAX_CLASSES} classes", _BF16, MAX_CLASSES, True, _TRAINING),
    _aot_forward("weighted cross-entropy bf16", _BF16, 19, True, _WEIGHTED, 13, 10),
    _aot_forward(
        f"weighted cross-entropy bf16 {MAX_CLASSES} classes", _BF16, MAX_CLASSES, True, _WEIGHTED
    ),
    _aot_forward("cross-entropy for P bf16", _BF16, 19, True, (*_TRAINING, "logarithms"), 14, 10),
    _aot_forward("cross-entropy alone bf16", _BF16, 19, True, _LOSS, 8, 12),
    _aot_forward("logarithms fp32", _FP32, 19, True, ("logarithms",), 8, 12),
    _aot_forward("logarithms bf16", _BF16, 19, True, ("logarithms",), 8, 12),
    _aot_forward(
        f"logarithms bf16 {MAX_CLASSES} classes", _BF16, MAX_CLASSES, False, ("logarithms",)
    ),
    _aot_probabilities("P fp32", _FP32, 19, True),
    _aot_probabilities("P bf16", _BF16, 19, True),
    _aot_probabilities(f"P bf16 {MAX_CLASSES} classes", _BF16, MAX_CLASSES, False),
    _aot_backward("backward fp32", _FP32, 19, True, 14, 8),
    _aot_backward("backward bf16", _BF16, 19, True, 14, 8),
    _aot_backward("backward fp16 half-pixel", _FP16, 19, False, 14, 8),
    _aot_backward("backward bf16 32 classes", _BF16, 32, True, 22, 6),
    _aot_backward(f"backward bf16 {MAX_CLASSES} classes", _BF16, MAX_CLASSES, True),
    _aot_gather("gather", 19, gpu_columns.ROWS),
    _aot_gather(f"gather {MAX_CLASSES} classes", MAX_CLASSES, 1),
)
