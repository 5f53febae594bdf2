"""torch's SGD and Adam without their guards against `torch.compile`.

The first call of a guarded method imports torch's compiler, and with it Triton: 148 MiB and more
than a second of CPU time (docs/decisions.md). fastass compiles the networks, never an optimizer.
"""

import inspect
from typing import TypeVar

import torch
from torch.optim import Optimizer

O = TypeVar("O", bound=Optimizer)

_GUARDED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def without_guards(optimizer: type[O]) -> type[O]:
    """A subclass of `optimizer` with the same results, which must not be compiled."""
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in _GUARDED}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


SGD = without_guards(torch.optim.SGD)
Adam = without_guards(torch.optim.Adam)
AdamW = without_guards(torch.optim.AdamW)
