"""The order in which a residual block's layers run, forward and backward, whatever their norms are.

Layers 0 … depth − 1 follow each other; layer `depth` is the shortcut, where it is not the identity.
"""

from typing import Protocol

import torch
from torch import Tensor


class Forward(Protocol):
    """Layer i of h, then `+ residual` and ReLU where they are asked for."""

    def __call__(self, i: int, h: Tensor, residual: Tensor | None, relu: bool, /) -> Tensor: ...


class Backward(Protocol):
    """The gradient of layer i's input h, if `to_h`, from g, that of its output; then `+ residual`,
    and 0 where `gate` is not above zero. Keeps the gradients of the layer's parameters."""

    def __call__(
        self,
        i: int,
        g: Tensor,
        h: Tensor,
        to_h: bool,
        residual: Tensor | None,
        gate: Tensor | None,
        /,
    ) -> Tensor | None: ...


def forward(x: Tensor, depth: int, projects: bool, run: Forward) -> tuple[list[Tensor], Tensor]:
    """The inputs of the `depth` layers, and y. projects: there is a shortcut layer."""
    maps = [x]
    for i in range(depth - 1):
        maps.append(run(i, maps[-1], None, True))
    residual = run(depth, x, None, False) if projects else x
    return maps, run(depth - 1, maps[-1], residual, True)


def backward(
    gradient: Tensor, maps: list[Tensor], projects: bool, to_x: bool, gates: bool, back: Backward
) -> Tensor | None:
    """The gradient of x = maps[0], if `to_x`; gated if `gates`. gradient: of y, gated already."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    x, depth = maps[0], len(maps)
    of_map = gradient
    for i in reversed(range(1, depth)):
        of_h = back(i, of_map, maps[i], True, None, None)
        assert of_h is not None
        of_map = of_h
    of_shortcut: Tensor | None = gradient
    if projects:
        of_shortcut = back(depth, gradient, x, to_x, None, None)
    return back(0, of_map, x, to_x, of_shortcut, x if gates else None)
