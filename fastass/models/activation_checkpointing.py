"""Activation checkpointing: keep fewer maps and compute the rest again in the backward."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from fastass.kernels.convolution.recompute import Again
from fastass.models.config import Checkpointing

KEPT = 6  # of so many successive residual sums one is kept


def run_blocks(blocks: nn.Sequential, x: Tensor, checkpointing: Checkpointing) -> Tensor:
    """The blocks one after the other; see `ModelConfig.checkpointing`.

    The gradients are the same, and so are the running statistics of batch norm: the second run
    leaves them alone. Under torch.compile `sums` is `off`: a compiler decides that for itself.
    """
    if _drops_sums(checkpointing):
        return _run_dropping_sums(blocks, x)
    if checkpointing != "blocks" or not torch.is_grad_enabled():
        return blocks(x)
    for block in blocks:
        x = checkpoint(
            block,
            x,
            use_reentrant=False,
            preserve_rng_state=False,  # the blocks draw no random numbers
            **_contexts(block),
        )
    return x


def _drops_sums(checkpointing: Checkpointing) -> bool:
    eager = not torch.compiler.is_compiling()
    return checkpointing == "sums" and torch.is_grad_enabled() and eager


def _run_dropping_sums(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """Bottlenecks of a stage. Kept are the outputs of every `KEPT`-th and of the last."""
    x_again: Again | None = None
    every: list[Any] = list(blocks)
    for i, block in enumerate(every):
        inner = block.inner(x, x_again)
        drop = i % KEPT != 0 and i != len(every) - 1
        again = _again(block, inner, x, x_again) if drop else None
        x, x_again = block.outer(inner, x, again), again
    return x


def _again(block: Any, inner: Tensor, x: Tensor, x_again: Again | None) -> Again:
    inner, kept = inner.detach(), None if x_again else x.detach()

    def outer() -> Tensor:
        return block.outer(inner, x_again.value() if x_again else kept)

    return Again(outer, inner.device.type)


def _contexts(block: nn.Module) -> dict[str, Any]:
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    if not norms:
        return {}  # which torch.compile understands
    return {"context_fn": lambda: (contextlib.nullcontext(), _statistics_kept(norms))}


@contextlib.contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
