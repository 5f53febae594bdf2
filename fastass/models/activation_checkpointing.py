"""Activation checkpointing: keep fewer maps and compute the others again in the backward.

It wraps the blocks of a backbone. The blocks themselves do not know about it.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastass import kernels
from fastass.kernels.convolution.running_statistics import collected
from fastass.models.config import Checkpointing
from fastass.models.domain_statistics import running_norms

KEPT = 6  # of so many successive outputs of blocks, `outputs` keeps one


class Stage(nn.Sequential):
    """Blocks one after another, each run with the activation checkpointing that is chosen."""

    checkpointing: Checkpointing = "off"

    def blocks(self) -> list[nn.Module]:
        """What is wrapped; by default the modules of the sequence."""
        return list(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointing == "blocks" and torch.is_grad_enabled():
            return self._recompute_blocks(x)
        if self.checkpointing == "outputs" and not torch.compiler.is_compiling():
            return self._recompute_outputs(x)
        for block in self:
            x = block(x)
        return x

    def _recompute_blocks(self, x: Tensor) -> Tensor:
        """Only the inputs of blocks are kept. Running statistics change once, as without it."""
        for block in self.blocks():
            x = checkpoint(
                block,
                x,
                use_reentrant=False,
                preserve_rng_state=False,  # the blocks draw no random numbers
                **_contexts(block),
            )
        return x

    def _recompute_outputs(self, x: Tensor) -> Tensor:
        """Of the blocks' outputs every `KEPT`-th and the last are kept. The gradients are the same.

        A compiler decides that for itself.
        """
        blocks = self.blocks()
        for i, block in enumerate(blocks):
            if i % KEPT == 0 or i == len(blocks) - 1:
                x = block(x)
            else:
                with kernels.recomputed_outputs():
                    x = block(x)
        return x


def checkpoint_activations(backbone: nn.Module, checkpointing: Checkpointing) -> None:
    """Set the activation checkpointing of every stage: see `ModelConfig.checkpointing`."""
    for module in backbone.modules():
        if isinstance(module, Stage):
            module.checkpointing = checkpointing


def _contexts(block: nn.Module) -> dict[str, Any]:
    if not running_norms(block):
        return {}  # which torch.compile understands
    # What the second forward of a block sees is what the first one saw; it feeds nothing.
    return {"context_fn": lambda: (contextlib.nullcontext(), collected())}
