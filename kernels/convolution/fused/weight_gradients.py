"""The gradients of weights that maps saw scaled and rounded:

    dweight[m,n,k] = scale[m] · dproduct[m,n,k],  in the weight's dtype

for product = weight · scale (`folding.py`). On a GPU that is a kernel per weight and backward, and
one more to add a second backward's. Inside `gradients_together` the gradients are put aside, and at
the end one kernel makes them all and one adds them. For small batches, where a kernel costs its
launch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.convolution.folding import ones_of

_Entry = tuple[Tensor, Tensor, Tensor]  # a weight, its scale, the gradient of their product
_STARTS = "_fastass_starts"  # the attribute of a weight: of the rows of all that come with it

# Not per thread: autograd runs a GPU's backward on a thread of its own.
_aside: list[_Entry] | None = None


@contextmanager
def gradients_together(wanted: bool = True) -> Iterator[None]:
    """Around one `backward()`: the weights' `grad` is complete at the end, and unchanged after an
    error. wanted: False where hooks wait for each gradient, as those of DDP."""
    global _aside
    before, _aside = _aside, [] if wanted else None
    try:
        yield
        _give(_aside or [])
    finally:
        _aside = before


def scaled(of_product: Tensor, scale: Tensor | None, weight: Tensor) -> Tensor | None:
    """The gradient of the weight [M,N,kh,kw], or None if it was put aside. May write over
    `of_product`. scale: [M], or None for ones. weight: as the forward got it; what a backward has
    saved is a copy where activations are computed again."""
    if _aside is not None and _fits(of_product, weight):
        _aside.append((weight, ones_of(weight) if scale is None else scale, of_product))
        return None
    if scale is None:
        return of_product.to(weight.dtype)
    factor = scale[:, None, None, None]
    # Of another dtype: the product is in the wider one, and no copy is made before it.
    return of_product.mul_(factor) if of_product.dtype == weight.dtype else of_product * factor


def _fits(of_product: Tensor, weight: Tensor) -> bool:
    return (
        weight.is_leaf
        and weight.dtype == torch.float32
        and of_product.dtype != weight.dtype
        and weight.device.type == "cuda"
        and dispatch.resolve(weight.device) == "triton"
    )


@torch.no_grad()
def _give(entries: Sequence[_Entry]) -> None:
    """Add the gradients to those that are there. A weight may come several times."""
    once: dict[int, _Entry] = {}
    again = []
    for entry in entries:
        if once.setdefault(id(entry[0]), entry) is not entry:
            again.append(entry)
    if not once:
        return
    from fastass.kernels.convolution.fused.fold_gpu import fold

    weights, scales, of_products = zip(*once.values(), strict=True)
    made = fold(of_products, scales, _starts(weights), torch.float32)
    pairs = [(w, _laid_out_as(w, gradient)) for w, gradient in zip(weights, made, strict=True)]
    sums = [(w.grad, gradient) for w, gradient in pairs if w.grad is not None]
    for weight, gradient in pairs:
        weight.grad = gradient if weight.grad is None else weight.grad
    if sums:
        torch._foreach_add_(*map(list, zip(*sums, strict=True)))
    _give(again)


def _starts(weights: Sequence[Tensor]) -> Tensor:
    """Of all rows; kept with the first weight for its next backward."""
    from fastass.kernels.convolution.fused.fold_gpu import row_starts

    shapes = [weight.shape for weight in weights]
    kept = getattr(weights[0], _STARTS, None)
    if kept is None or kept[0] != shapes or kept[1].device != weights[0].device:
        kept = shapes, row_starts(weights)
        setattr(weights[0], _STARTS, kept)
    starts: Tensor = kept[1]
    return starts


def _laid_out_as(weight: Tensor, gradient: Tensor) -> Tensor:
    """A channels-last gradient with the weight's strides, which fused optimizers ask for."""
    if weight.is_contiguous(memory_format=torch.channels_last):
        return gradient.as_strided(weight.shape, weight.stride())
    return torch.empty_like(weight).copy_(gradient)
