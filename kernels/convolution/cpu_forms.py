"""When a convolution runs in one of fastass's own forms instead of torch's.

The forms are for a CPU in fp32 with channels-last maps, run eagerly: there arithmetic bounds a
training step, and torch's choice is not the fastest one for every part.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastass.kernels import dispatch

_winograd = True  # for all threads: the streams of a concurrent backward run on several


@contextmanager
def without_winograd() -> Iterator[None]:
    """Inside, no convolution of this process runs in Winograd's form. For measurements."""
    global _winograd
    before, _winograd = _winograd, False
    try:
        yield
    finally:
        _winograd = before


def has_cpu_forms(x: Tensor) -> bool:
    """Whether `x` [B,N,h,w] is an fp32 channels-last map on a CPU, outside autocast and compile.

    A map that is dense in both layouts, such as one of a single channel, counts as channels-first.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )


def has_winograd(x: Tensor) -> bool:
    """Whether convolutions of `x` may run in Winograd's form: see `without_winograd`."""
    return _winograd and has_cpu_forms(x) and dispatch.resolve(x.device) == "native"
