"""All weights of a network with their norms' scales folded in, by one kernel.

The contract of one product is in `fastass.kernels.convolution.folding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Launch

_BLOCK, _WARPS = 1024, 4


@triton.jit
def _kernel(weights, scales, starts, products, BLOCK: tl.constexpr):
    """Row m, of all weights in one vector, lies from starts[m] to starts[m + 1]."""
    row = tl.program_id(0)
    end = tl.load(starts + row + 1)
    scale = tl.load(scales + row).to(tl.float32)
    for first in range(tl.load(starts + row), end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        value = tl.load(weights + place, mask=place < end, other=0.0).to(tl.float32) * scale
        tl.store(products + place, value.to(products.dtype.element_ty), mask=place < end)


def row_starts(weights: Sequence[Tensor]) -> Tensor:
    """Where each row of each weight [M,N,kh,kw] starts, then the end: int32 on their device."""
    lengths = [n for w in weights for n in [w[0].numel()] * w.shape[0]]
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return starts.to(weights[0].device)


def fold(
    weights: Sequence[Tensor], scales: Sequence[Tensor], starts: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    """weight · scale of each pair, channels-last in `dtype`; one vector holds them all.

    starts: `row_starts` of tensors with these shapes.
    """
    flat = torch.cat([weight.permute(0, 2, 3, 1).reshape(-1) for weight in weights])
    products = torch.empty_like(flat, dtype=dtype)
    _kernel[(starts.shape[0] - 1,)](
        weights=flat,
        scales=torch.cat([*scales]),
        starts=starts,
        products=products,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )
    made = []
    for weight, part in zip(weights, products.split([w.numel() for w in weights]), strict=True):
        M, N, *kernel = weight.shape
        made.append(part.view(M, *kernel, N).permute(0, 3, 1, 2))
    return made


_GIVEN = {"scales": torch.float32, "starts": torch.int32}
# Products, and the gradients of their weights (`weight_gradients.py`).
_PAIRS = {
    f"{way} {str(half).removeprefix('torch.')}": pair
    for half in (torch.bfloat16, torch.float16)
    for way, pair in (("fold", (torch.float32, half)), ("gradient", (half, torch.float32)))
}
AOT = tuple(
    Launch(
        name,
        _kernel,
        {**_GIVEN, "weights": given, "products": made},
        {"BLOCK": _BLOCK},
        _WARPS,
    )
    for name, (given, made) in _PAIRS.items()
)
