"""When a forward in training changes the running statistics of its norms.

At once, as torch does; or, for forwards on several threads, afterwards in an order of the caller's
choice: two threads would race for the same vectors, and an average depends on its order.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Update(NamedTuple):
    """The statistics of one batch, for those that `norm` keeps."""

    norm: nn.BatchNorm2d
    mean: Tensor  # [N]
    variance: Tensor  # [N], unbiased


class _Thread(threading.local):
    updates: list[Update] | None = None


_thread = _Thread()


@contextmanager
def deferred() -> Iterator[list[Update]]:
    """In this thread forwards add to the list that this gives, and change no statistics."""
    before, _thread.updates = _thread.updates, []
    try:
        yield _thread.updates
    finally:
        _thread.updates = before


def is_deferred() -> bool:
    """Whether this thread is in `deferred`."""
    return _thread.updates is not None


def destination(norm: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None, float | None]:
    """Running mean and variance that a forward in training is to update, and with what momentum."""
    if _thread.updates is None:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        return norm.running_mean, norm.running_var, norm.momentum
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
    _thread.updates.append(Update(norm, mean, variance))
    return mean, variance, 1.0


@torch.no_grad()
def apply(updates: Iterable[Update]) -> None:
    """What forwards have deferred, in this order."""
    for norm, mean, variance in updates:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance, norm.momentum)
