"""Activation checkpointing: keep the inputs of a network's blocks, compute the rest again."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_blocks(blocks: nn.Sequential, x: Tensor, *, checkpointed: bool) -> Tensor:
    """The blocks one after the other; `checkpointed` ones run again in the backward.

    The gradients are the same, and so are the running statistics of batch norm: the second run
    leaves them alone.
    """
    if not (checkpointed and torch.is_grad_enabled()):
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
