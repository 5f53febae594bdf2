"""Which implementation of an operator runs: a process-wide choice, resolved by the inputs' device.

``auto``: CUDA tensors run Triton, CPU tensors run native code. Anything that cannot run is an error
that says why; the plain torch reference runs only when it is asked for.
"""

from __future__ import annotations

import torch

from fastass.kernels import native_library

CHOICES = ("auto", "reference", "native", "triton")

_choice = "auto"


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
    return wanted
