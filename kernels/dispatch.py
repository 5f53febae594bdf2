"""Which implementation of an operator runs: a process-wide choice, resolved by the inputs' device.

``auto``: CUDA tensors run Triton, CPU tensors run native code. Anything that cannot run is an error
that says why. The plain torch reference runs when it is asked for, and by ``auto`` on a GPU that is
older than the Triton kernels support; the heading of a run says so.
"""

from __future__ import annotations

import torch

from fastass.kernels import native_library

CHOICES = ("auto", "reference", "native", "triton")
OLDEST_CAPABILITY = (8, 0)  # sm_80: Triton's products in bf16 need it

_choice = "auto"
_older: dict[int, bool] = {}  # by the index of a GPU: whether it is older than that


def use(choice: str) -> None:
    """Chooses the implementation of every operator: auto, reference, native or triton.

    Raises ValueError for another name, RuntimeError with the reason when it cannot run here.
    """
    global _choice
    _check(choice)
    _choice = choice


def _check(choice: str) -> None:
    if choice not in CHOICES:
        raise ValueError(f"kernels: got {choice!r}, expected one of {', '.join(CHOICES)}")
    reason = _unavailable(choice)
    if reason is not None:
        raise RuntimeError(f"kernels={choice} cannot run here: {reason}")


def choice() -> str:
    """The current choice."""
    return _choice


def available() -> dict[str, str | None]:
    """Every implementation: None when this machine can run it, else the reason why not."""
    return {name: _unavailable(name) for name in CHOICES if name != "auto"}


def _unavailable(choice: str) -> str | None:
    if choice == "native":
        return native_library.unavailable()
    return _triton_unavailable() if choice == "triton" else None


def _triton_unavailable() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"  # asked first: without one, nothing has to import Triton
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error})"
    return None


def resolve(device: torch.device, choice: str | None = None) -> str:
    """The implementation for tensors on `device`: reference, native or triton.

    choice: by default the current one. Raises ValueError and RuntimeError as `use` does, and
    RuntimeError when an explicit choice does not run on that device, or nothing does.
    """
    if choice is None:
        choice = _choice
    else:
        _check(choice)
    if choice == "reference":
        return "reference"
    wanted = {"cuda": "triton", "cpu": "native"}.get(device.type)
    if wanted is None:
        raise RuntimeError(
            f"kernels={choice}: no implementation for {device.type} tensors but the reference; "
            "choose kernels=reference"
        )
    if choice not in ("auto", wanted):
        raise RuntimeError(
            f"kernels={choice} does not run on {device.type} tensors: choose {wanted}, auto or "
            "reference"
        )
    if choice == "auto" and wanted == "triton" and _is_older(device):
        return "reference"
    return wanted


def _is_older(device: torch.device) -> bool:
    index = device.index or 0
    if torch.compiler.is_compiling() or index in _older:  # a run asks once before it compiles
        return _older.get(index, False)
    if not torch.cuda.is_available():
        return False
    _older[index] = torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY
    return _older[index]
