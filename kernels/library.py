"""One operator for both devices, as torch.library knows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def operator(
    name: str, *, cuda: Callable[..., Any] | None, cpu: Callable[..., Any], fake: Callable[..., Any]
) -> Any:
    """Registers fastass::NAME with the implementation of each device and returns the operator.

    The schema is read from the annotations of `cpu`; all three take the same arguments. `cuda` is
    None where CPU tensors alone have an implementation. Otherwise it is a function that imports its
    GPU module, and with it Triton, when it is called. `fake` gives outputs of the right shapes,
    dtypes and strides without computing anything.
    """
    made = torch.library.custom_op(f"fastass::{name}", cpu, mutates_args=(), device_types=())
    # Straight to the dispatcher: custom_op's own way imports torch's compiler, and with it Triton,
    # at the first call (1 s, 150 MiB). torch.compile sees the operator either way, not its inside.
    torch.library.impl(f"fastass::{name}", "cpu", cpu)
    if cuda is not None:
        made.register_kernel("cuda")(cuda)
    made.register_fake(fake)
    return made
