"""The operators of training and evaluation, each with three implementations of one contract.

`use` chooses among reference (plain torch), native (C++, CPU tensors), triton (CUDA tensors) and
auto; `available` says what this machine can run.
"""

from fastass.kernels.dispatch import available, choice, resolve, use
from fastass.kernels.upsample_confusion import upsample_confusion

__all__ = ["available", "choice", "resolve", "upsample_confusion", "use"]
