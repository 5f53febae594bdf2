"""The weight of a convolution with the scale of a frozen norm folded into it:

    product[m,n,k] = weight[m,n,k] · scale[m],  rounded once to the dtype of the maps

Weights change between two steps only, and a step forwards each convolution once per stream and
needs the product again in each backward. Inside `folded_once` it is made once and shared. That
holds a second copy of the weights, in the maps' precision, until the block ends; outside nothing is
held. For a GPU, where each small kernel costs a launch.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

# The products of the block; what they are made of is held so that no other tensor gets its id. Not
# per thread: autograd runs a GPU's backward, and forwards again in it, on a thread of its own.
_products: dict[tuple[Hashable, ...], tuple[Sequence[Tensor], Tensor]] | None = None


@contextmanager
def folded_once() -> Iterator[None]:
    """Inside, products of the same weight and scale are made once. No weight may change there."""
    global _products
    before, _products = _products, {}
    try:
        yield
    finally:
        _products = before


def shares_products() -> bool:
    """Whether a `folded_once` is open."""
    return _products is not None


@torch.no_grad()
def folded(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The product; weight [M,N,kh,kw], scale [M]. Without gradients."""
    return shared(lambda: _product(weight, scale, dtype), dtype, weight, scale)


@torch.no_grad()
def rounded(shift: Tensor, dtype: torch.dtype) -> Tensor:
    """A norm's shift in the dtype of the maps, made as often as a product."""
    return shared(lambda: shift.to(dtype), dtype, shift)


def shared(make: Callable[[], Tensor], dtype: torch.dtype, *of: Tensor) -> Tensor:
    """What `make` returns, in `dtype`; inside `folded_once` it is made once for the same `of`."""
    if _products is None:
        return make()
    key = *map(id, of), dtype
    if key not in _products:
        _products[key] = of, make()
    return _products[key][1]


def _product(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    scale = scale[:, None, None, None]
    if dtype == weight.dtype == scale.dtype:
        return weight * scale
    return torch.mul(weight, scale, out=torch.empty_like(weight, dtype=dtype))  # in one pass


def scaled(of_product: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of a weight, given that of the weight · scale. May write over it."""
    factor = scale[:, None, None, None]
    # Of another dtype: the product is in the wider one, and no copy is made before it.
    return of_product.mul_(factor) if of_product.dtype == dtype else of_product * factor
