"""One operator for both devices, as torch.library knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def operator(
    name: str, *, cuda: Callable[..., Any] | None, cpu: Callable[..., Any], fake: Callable[..., Any]
) -> Any:
    """Registers fastass::NAME with the implementation of each device and returns the operator.

    The schema is read from the annotations of `cuda`, or of `cpu` where CPU tensors alone have an
    implementation; all three take the same arguments. `fake` gives outputs of the right shapes,
    dtypes and strides without computing anything.
    """
    first, device = (cpu, "cpu") if cuda is None else (cuda, "cuda")
    made = torch.library.custom_op(f"fastass::{name}", first, mutates_args=(), device_types=device)
    if cuda is not None:
        made.register_kernel("cpu")(cpu)
    made.register_fake(fake)
    return made
