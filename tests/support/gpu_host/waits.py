"""Code on a GPU that must not wait for it: PyTorch raises where it would."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def waiting_is_an_error(on: bool = True) -> Iterator[None]:
    """RuntimeError at an operation that synchronises with the GPU."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        # The first call in a process warns that the mode is a prototype.
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error" if on else "default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
