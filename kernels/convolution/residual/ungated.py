"""Outputs of a ReLU whose gradient the next layer gates.

The gradient of y = ReLU(z) is g · [y > 0], a pass over g and y. A residual block that reads y adds
two gradients of y and reads y for its convolution's weight anyway: there the gate costs one read.
So a block gives out y in two forms. Whoever knows `ungated` reads that form and promises that the
gradient it sends there is gated. Everyone else reads y itself, whose own backward gates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_UNGATED = "_fastass_ungated"  # the attribute of a gated tensor


class _Gate(torch.autograd.Function):
    """y, as a view; gates its gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        gated: Tensor = torch.ops.aten.threshold_backward(gradient, y, 0)
        return gated


_gate: Callable[[Tensor], Tensor] = _Gate.apply


def gated(y: Tensor) -> Tensor:
    """y for every reader, given the output of an operator that expects a gated gradient."""
    public = _gate(y)
    setattr(public, _UNGATED, y)
    return public


def ungated(x: Tensor) -> Tensor | None:
    """The form of x that expects a gated gradient; None if x has none."""
    found: Tensor | None = getattr(x, _UNGATED, None)
    return found
