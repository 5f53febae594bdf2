"""Where the batch statistics of a forward in training go.

Usually each norm adds them to its running statistics at once, as in torch. Inside `collected` they
are handed to the caller instead, who decides which running statistics they feed, when and in which
order: a running average depends on the order of its batches, the streams of a step belong to
different domains, and forwards on several threads would race for the same vectors.

The batch statistics are a by-product of the forward, so this takes no pass over the maps.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

Norm = nn.BatchNorm2d | nn.SyncBatchNorm
_BLOCK, _ALIGNMENT = 1 << 17, 64  # elements; ResNet-101 needs 106 000 per forward


class BatchStatistics(NamedTuple):
    """What one norm saw in one forward."""

    norm: Norm
    mean: Tensor  # [N]
    variance: Tensor  # [N], unbiased
    stream: str  # the forward's, as `stream` named it; "" if it did not


class _Thread(threading.local):
    def __init__(self) -> None:
        # Set here, not in the class: torch.compile guards on the instance.
        self.seen: list[BatchStatistics] | None = None
        self.stream = ""
        self.zeros: Tensor | None = None  # the rest of a block, see `_zeros`


_thread = _Thread()


@contextmanager
def collected() -> Iterator[list[BatchStatistics]]:
    """In this thread, forwards in training add to the list and change no running statistics.

    Ignore the list for a forward that shall feed nothing.
    """
    before, _thread.seen, _thread.zeros = _thread.seen, [], None
    try:
        yield _thread.seen
    finally:
        _thread.seen, _thread.zeros = before, None


@contextmanager
def stream(name: str) -> Iterator[None]:
    """The forwards inside are those of this stream of a step."""
    before, _thread.stream = _thread.stream, name
    try:
        yield
    finally:
        _thread.stream = before


def is_collecting() -> bool:
    """Whether this thread is in `collected`."""
    return _thread.seen is not None


def has_running(norm: nn.Module) -> TypeGuard[Norm]:
    """Whether a forward changes running statistics by a moving average."""
    return (
        type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)
        and norm.training
        and bool(norm.track_running_stats)
        and norm.momentum is not None
    )


def destination(norm: Norm) -> tuple[Tensor | None, Tensor | None, float | None]:
    """The running mean and variance that a forward in training updates, and with what momentum.

    Inside `collected` they are new vectors with momentum 1, so they receive the batch's statistics.
    """
    if _thread.seen is None:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        return norm.running_mean, norm.running_var, norm.momentum
    assert norm.running_mean is not None
    mean, variance = _zeros(norm.running_mean), _zeros(norm.running_mean)
    _thread.seen.append(BatchStatistics(norm, mean, variance, _thread.stream))
    return mean, variance, 1.0


def _zeros(like: Tensor) -> Tensor:
    """A vector of zeros. Eagerly it is cut from a block: on a GPU, one launch for many vectors."""
    if torch.compiler.is_compiling():
        return torch.zeros_like(like)
    size = -(-like.numel() // _ALIGNMENT) * _ALIGNMENT
    block = _thread.zeros
    fits = block is not None and block.numel() >= size
    if block is None or not fits or (block.device, block.dtype) != (like.device, like.dtype):
        block = like.new_zeros(max(size, _BLOCK))
    _thread.zeros = block[size:]
    return block[: like.numel()]
