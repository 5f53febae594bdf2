"""Outputs of residual blocks that a backward computes again instead of keeping them.

A bottleneck's output y = ReLU(conv(h) + shortcut) has four times the channels of its other maps,
and it is one 1×1 convolution away from h and the shortcut, which are kept anyway. Inside
`recomputed_outputs` the operator `conv_frozen_bn` keeps h and the shortcut instead of y. The y that
it returns is marked, so that the convolution that reads it does not keep it either. In the backward
that convolution needs y first and has it computed; the ReLU of y needs it last and lets it go.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Recomputed:
    """A map that a backward computes again, once, and holds until its last reader has had it."""

    def __init__(self, compute: Callable[[], Tensor], device: str) -> None:
        """compute: runs without gradients, under the autocast of now; must not hold the graph."""
        self._compute: Callable[[], Tensor] | None = compute
        self._autocast: dict[str, Any] = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        self._map: Tensor | None = None
        self._readers = 0

    def add_reader(self) -> None:
        """Count an operator that will call `take` once, in its backward."""
        self._readers += 1

    def value(self) -> Tensor:
        """The map; it stays in memory until every reader has taken it."""
        if self._map is None:
            if self._compute is None:
                raise RuntimeError(
                    "a second backward through residual blocks whose outputs were not kept; set "
                    "model.recompute_sums to false"
                )
            with torch.no_grad(), torch.autocast(**self._autocast):
                self._map = self._compute()
        return self._map

    def take(self) -> Tensor:
        """The map, for one reader. After the last one nothing is held."""
        value = self.value()
        self._readers -= 1
        if not self._readers:
            self._map = self._compute = None
        return value


class _Thread(threading.local):
    recomputes = False


_thread = _Thread()
_MARK = "_fastass_recomputed"  # the attribute of a marked tensor


@contextmanager
def recomputed_outputs() -> Iterator[None]:
    """In this thread, `conv_frozen_bn` with a residual does not keep its output for the backward.

    Such a backward can run once. Without gradients, and under `torch.compile`, nothing changes.
    """
    before, _thread.recomputes = _thread.recomputes, True
    try:
        yield
    finally:
        _thread.recomputes = before


def recomputes_outputs() -> bool:
    """Whether this thread is inside `recomputed_outputs`."""
    return _thread.recomputes


def mark(y: Tensor, recomputed: Recomputed) -> None:
    """Say how a backward gets `y`, to whoever reads it."""
    setattr(y, _MARK, recomputed)


def mark_of(x: Tensor) -> Recomputed | None:
    """How a backward gets `x` if it is to be computed again, else None."""
    found: Recomputed | None = getattr(x, _MARK, None)
    return found


def getter(x: Tensor) -> Callable[[], Tensor]:
    """A function that gives `x` during the backward, without its graph."""
    recomputed = mark_of(x)
    if recomputed is not None:
        return recomputed.value
    kept = x.detach()
    return lambda: kept
