"""When a forward in training changes the running statistics of its norms.

Usually at once, as in torch. Forwards on several threads change them afterwards instead, in the
order that the caller chooses: the threads would race for the same vectors, and a running average
depends on the order of its batches.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Update(NamedTuple):
    """The statistics of one batch, which wait to be added to those that `norm` keeps."""

    norm: nn.BatchNorm2d
    mean: Tensor  # [N]
    variance: Tensor  # [N], unbiased


class _Thread(threading.local):
    updates: list[Update] | None = None


_thread = _Thread()


@contextmanager
def deferred() -> Iterator[list[Update]]:
    """In this thread, forwards add to the list that this yields and change no statistics."""
    before, _thread.updates = _thread.updates, []
    try:
        yield _thread.updates
    finally:
        _thread.updates = before


def is_deferred() -> bool:
    """Whether this thread is in `deferred`."""
    return _thread.updates is not None


def destination(norm: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None, float | None]:
    """The running mean and variance that a forward in training updates, and with what momentum.

    Inside `deferred` they are new vectors with momentum 1, so they receive the batch's statistics.
    """
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
    """Change the running statistics by what forwards have deferred, in this order."""
    for norm, mean, variance in updates:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance, norm.momentum)
