"""The weight of a convolution with the scale of a frozen norm folded into it:

    product[m,n,k] = weight[m,n,k] · scale[m],  rounded once to the dtype of the maps

Weights change between two steps only, and a step forwards each convolution once per stream and
needs the product again in each backward. Inside `folded_once` it is made once and shared. That
holds a second copy of the weights, in the maps' precision, until the block ends; outside nothing is
held. For a GPU, where each small kernel costs a launch: from the second such block on, one kernel
makes all the products that the block before needed.
"""

import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.layout import kept_with

_Key = tuple[Hashable, ...]


@dataclass
class _Block:
    """Of a `folded_once`: what was made, and of what, so that no other tensor gets its id."""

    made: dict[_Key, tuple[Sequence[Tensor], Tensor]] = field(default_factory=dict)
    folded: list[_Key] = field(default_factory=list)


@dataclass
class _Network:
    """The weights and scales that a block folded, by the key of their product."""

    pairs: dict[_Key, tuple[weakref.ref[Tensor], weakref.ref[Tensor]]]
    starts: Tensor  # of their rows


# Not per thread: autograd runs a GPU's backward, and forwards again in it, on a thread of its own.
_block: _Block | None = None
_networks: dict[_Key, _Network] = {}  # by the first product of a block
_ROUNDED, _ONES = "_fastass_rounded", "_fastass_ones"  # attributes of a shift and of a weight


@contextmanager
def folded_once() -> Iterator[None]:
    """Inside, products of the same weight and scale are made once. No weight may change there."""
    global _block
    before, _block = _block, _Block()
    try:
        yield
        _remember(_block)
    finally:
        _block = before


def shares_products() -> bool:
    """Whether a `folded_once` is open."""
    return _block is not None


@torch.no_grad()
def folded(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The product; weight [M,N,kh,kw], scale [M]. Without gradients."""
    if _block is not None:
        key = _key(dtype, weight, scale)
        if not _block.folded and key in _networks:
            _fold_together(_block, key, dtype)
        if key not in _block.made:
            _block.folded.append(key)
    return shared(lambda: _product(weight, scale, dtype), dtype, weight, scale)


def rounded(shift: Tensor, dtype: torch.dtype) -> Tensor:
    """A frozen norm's shift, which is a constant, in the dtype of the maps; kept with the shift."""
    kept: Tensor | None = getattr(shift, _ROUNDED, None)
    if kept is None or kept.dtype != dtype:
        with torch.inference_mode(False), torch.no_grad():
            kept = shift.to(dtype)
        setattr(shift, _ROUNDED, kept)
    return kept


@torch.no_grad()
def rounded_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in the dtype of the maps: its product with ones, made as often and together."""
    return folded(weight, ones_of(weight), dtype)


def ones_of(weight: Tensor) -> Tensor:
    """The scale [M] of a weight that has no norm folded into it; kept with the weight."""
    return kept_with(weight, _ONES, lambda: weight.new_ones(weight.shape[0]))


def shared(make: Callable[[], Tensor], dtype: torch.dtype, *of: Tensor) -> Tensor:
    """What `make` returns, in `dtype`; inside `folded_once` it is made once for the same `of`."""
    if _block is None:
        return make()
    key = _key(dtype, *of)
    if key not in _block.made:
        _block.made[key] = of, make()
    return _block.made[key][1]


def _key(dtype: torch.dtype, *of: Tensor) -> _Key:
    return dtype, *map(id, of)


def _product(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    scale = scale[:, None, None, None]
    if dtype == weight.dtype == scale.dtype:
        return weight * scale
    return torch.mul(weight, scale, out=torch.empty_like(weight, dtype=dtype))  # in one pass


# --- many products by one kernel, on a GPU --------------------------------------------------------


def _remember(block: _Block) -> None:
    """Note what a block folded one by one, so that the next one folds it together."""
    keys = block.folded
    if len(keys) < 2 or (keys[0] in _networks and [*_networks[keys[0]].pairs] == keys):
        return
    weights, scales = zip(*(block.made[key][0] for key in keys), strict=True)
    on_gpu = all(w.device.type == "cuda" and w.dtype == torch.float32 for w in weights)
    if not on_gpu or dispatch.resolve(weights[0].device) != "triton":
        return
    from fastass.kernels.convolution.fused.fold_gpu import row_starts

    for dead in [k for k, n in _networks.items() if any(w() is None for w, _ in n.pairs.values())]:
        del _networks[dead]
    refs = ((weakref.ref(w), weakref.ref(s)) for w, s in zip(weights, scales, strict=True))
    _networks[keys[0]] = _Network(dict(zip(keys, refs, strict=True)), row_starts(weights))


def _fold_together(block: _Block, first: _Key, dtype: torch.dtype) -> None:
    """Make every product that the last block with this first one made."""
    from fastass.kernels.convolution.fused.fold_gpu import fold

    network = _networks[first]
    pairs = [(weight(), scale()) for weight, scale in network.pairs.values()]
    alive = [(w, s) for w, s in pairs if w is not None and s is not None]
    same = [_key(dtype, *pair) for pair in alive] == [*network.pairs]
    if not same:  # ids of tensors that are gone
        del _networks[first]
        return
    weights, scales = zip(*alive, strict=True)
    products = fold(weights, scales, network.starts, dtype)
    for key, pair, product in zip(network.pairs, alive, products, strict=True):
        block.made[key] = pair, product
        block.folded.append(key)
