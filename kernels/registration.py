"""One operator for both devices, as torch.library knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def operator(
    name: str, *, cuda: Callable[..., Any], cpu: Callable[..., Any], fake: Callable[..., Any]
) -> Any:
    """Registers fastass::NAME with the implementation of each device and returns the operator.

    The schema is read from the annotations of `cuda`; all three take the same arguments. `fake`
    gives outputs of the right shapes, dtypes and strides without computing anything.
    """
    made = torch.library.custom_op(f"fastass::{name}", cuda, mutates_args=(), device_types="cuda")
    made.register_kernel("cpu")(cpu)
    made.register_fake(fake)
    return made
