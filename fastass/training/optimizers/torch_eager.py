"""Torch's optimizers without their guards against being compiled.

The first call of a guarded method imports torch's compiler, and with it Triton: 145 MiB and two
seconds (docs/decisions.md). The engine compiles the step's module, never an optimizer.
"""

import inspect
from typing import TypeVar

import torch
from torch.optim import Optimizer

O = TypeVar("O", bound=Optimizer)

_GUARDED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def unguarded(optimizer: type[O]) -> type[O]:
    """A subclass of `optimizer`, the same in every result, that must not be compiled."""
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in _GUARDED}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


SGD = unguarded(torch.optim.SGD)
Adam = unguarded(torch.optim.Adam)
