"""The native library: where it is found, which instruction set it runs, and every signature.

The one ctypes file. A routine ``fastass_<name>_<isa>`` takes typed pointers, sizes and a thread
count and returns an int status; `call` turns tensors into pointers and a status into an exception.
Callers validate dtype, device, sizes and layout before they pass a pointer.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

import torch

LIBRARY = "libfastass_native.so"
ABI = 6  # runtime.cpp: fastass_abi
INSTRUCTION_SETS = ("base", "avx2", "avx512")  # runtime.cpp: fastass_best_isa
ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # routine.h: Element

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int

# Arguments in the order of the C++ definition in the `.cpp` beside the operator.
SIGNATURES: dict[str, tuple[type, ...]] = {
    # features, element, channels_last, labels, rows, columns, B, N, h, w, H, W, C, ignore,
    # means, counts, threads
    "class_mean": (
        *(_POINTER, _INT, _INT, _POINTER, _POINTER, _POINTER),
        *(_SIZE,) * 6,
        *(_INT, _INT, _POINTER, _POINTER, _INT),
    ),
    # gradient, counts, labels, rows, columns, B, N, h, w, H, W, C, ignore, out, element,
    # channels_last, threads
    "class_mean_backward": (
        *(_POINTER,) * 5,
        *(_SIZE,) * 6,
        *(_INT, _INT, _POINTER, _INT, _INT, _INT),
    ),
    # x, weight, bias, out, B, h, w, inputs, outputs, dilation, turned, tile, threads
    "convolution3x3": (*(_POINTER,) * 4, *(_SIZE,) * 6, *(_INT,) * 3),
    # x, gradient, out, B, h, w, inputs, outputs, dilation, threads
    "convolution3x3_weight": (*(_POINTER,) * 3, *(_SIZE,) * 6, _INT),
    # x, weight, bias, y, B, H, W, inputs, outputs, slope, threads
    "convolution4x4": (*(_POINTER,) * 4, *(_SIZE,) * 5, ctypes.c_float, _INT),
    # gradient, weight, gate, gradient of x, as above
    "convolution4x4_input": (*(_POINTER,) * 4, *(_SIZE,) * 5, ctypes.c_float, _INT),
    # x, gradient, gradient of the weight, B, H, W, inputs, outputs, threads
    "convolution4x4_weight": (*(_POINTER,) * 3, *(_SIZE,) * 5, _INT),
    # scores, element, strides b c h w, labels, counts, B, C, h, w, H, W, align, ignore, threads
    "upsample_confusion": (_POINTER, _INT, *(_SIZE,) * 4, _POINTER, _POINTER, *(_INT,) * 9),
    # scores…strides, winners, confident, threshold, B, C, h, w, H, W, align, threads
    "upsample_pseudo_labels": (
        *(_POINTER, _INT, *(_SIZE,) * 4, _POINTER, _POINTER, ctypes.c_float),
        *(_INT,) * 8,
    ),
    # scores…strides, labels, full, scale, P, its strides, gradient, loss, valid, B…W, align,
    # ignore, threads
    "upsample_softmax_forward": (
        *(_POINTER, _INT, *(_SIZE,) * 4, _POINTER, _POINTER, _POINTER),
        *(_POINTER, *(_SIZE,) * 4, _POINTER, _POINTER, _POINTER),
        *(_INT,) * 9,
    ),
    # scores…strides, gradient of P, its strides, gradient, B, C, h, w, H, W, align, threads
    "upsample_softmax_backward": (
        *(_POINTER, _INT, *(_SIZE,) * 4),
        *(_POINTER, *(_SIZE,) * 4, _POINTER),
        *(_INT,) * 8,
    ),
    # labels, rows, columns, B, h, w, H, W, C, ignore, index, classes, count
    "valid_pixels": (*(_POINTER,) * 3, *(_SIZE,) * 5, _INT, _INT, *(_POINTER,) * 3),
    # x, residual, weight, bias, y, mean, inverse, running mean and variance, P, N, relu, momentum,
    # eps, threads
    "batch_norm_forward": (
        *((_POINTER,) * 9),
        *(_SIZE, _INT, _INT, ctypes.c_double, ctypes.c_double, _INT),
    ),
    # gradient, x, y, mean, inverse, weight, gradients of x, residual, weight, bias, P, N, threads
    "batch_norm_backward": (*((_POINTER,) * 10), _SIZE, _INT, _INT),
    # hidden, classes, R, M, C, bias1, weight2, bias2, slope, domain, weight_gradient, adversarial,
    # losses, gradients of bias1, weight2, bias2, threads
    "pixel_discriminator": (
        *(_POINTER, _POINTER, _SIZE, _SIZE, _INT),
        *(_POINTER, _POINTER, _POINTER, ctypes.c_float, _INT, _INT, _POINTER),
        *(*(_POINTER,) * 4, _INT),
    ),
}

_STATUS: dict[int, tuple[type[Exception], str]] = {
    1: (MemoryError, "out of memory for the scratch buffers"),
    2: (ValueError, "labels: got a value that is neither a class nor ignore_index"),
    3: (
        RuntimeError,
        "argument refused by the native routine (a bug: Python validates before the call)",
    ),
}


def candidates() -> list[Path]:
    """Where the library may be: `FASTASS_NATIVE_LIBRARY`, the package, a checkout's build/."""
    forced = os.environ.get("FASTASS_NATIVE_LIBRARY")
    if forced:
        return [Path(forced)]
    from fastass import kernels

    here = Path(__file__).resolve().parent
    packaged = [Path(folder) / LIBRARY for folder in [*kernels.__path__, str(here)]]
    build = here.parent / "build"  # a source checkout; the library is at the top or in build/<tag>
    built = [build / LIBRARY, *sorted(build.glob(f"*/{LIBRARY}"))] if build.is_dir() else []
    return [*packaged, *built]


def unavailable() -> str | None:
    """None when the native library can be loaded, else the reason and the remedy."""
    try:
        library()
    except RuntimeError as error:
        return str(error)
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. RuntimeError with the remedy when it is missing or does not fit."""
    found = next((path for path in candidates() if path.is_file()), None)
    remedy = "build it with `pip install -e .` or `cmake -S . -B build && cmake --build build`"
    if found is None:
        raise RuntimeError(f"{LIBRARY} is missing from fastass/kernels and from build/: {remedy}")
    try:
        loaded = ctypes.CDLL(str(found))
    except OSError as error:
        raise RuntimeError(f"{found} cannot be loaded ({error}): {remedy}") from error
    if not hasattr(loaded, "fastass_abi") or loaded.fastass_abi() != ABI:
        raise RuntimeError(f"{found} was built from other sources than this package: {remedy}")
    return loaded


def isa() -> str:
    """The instruction set in use: the processor's best, or what `FASTASS_CPU_ISA` asks for."""
    best = library().fastass_best_isa()
    asked = os.environ.get("FASTASS_CPU_ISA")
    if not asked:
        return INSTRUCTION_SETS[best]
    if asked not in INSTRUCTION_SETS:
        raise RuntimeError(f"FASTASS_CPU_ISA: got {asked!r}, expected one of {INSTRUCTION_SETS}")
    if INSTRUCTION_SETS.index(asked) > best:
        raise RuntimeError(
            f"FASTASS_CPU_ISA={asked}: this processor has {INSTRUCTION_SETS[best]} at best"
        )
    return asked


@functools.cache
def _routine(name: str, instruction_set: str) -> Callable[..., int]:
    routine = library()[f"fastass_{name}_{instruction_set}"]
    routine.argtypes = SIGNATURES[name]
    routine.restype = ctypes.c_int
    return routine


def call(name: str, *arguments: torch.Tensor | float | None) -> None:
    """Runs the routine on this machine's instruction set; a tensor passes as its data pointer.

    The GIL is released meanwhile (ctypes). Raises what the routine's status means.
    """
    converted = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    status = _routine(name, isa())(*converted)
    if status:
        error, message = _STATUS[status]
        raise error(f"{name}: {message}")


def tune_allocator(*, reuse: bool) -> bool:
    """Whether this process's malloc keeps freed large blocks and uses them again.

    With `reuse` fresh large tensors cost no page faults after the first few steps; the process
    keeps its peak memory, and some more, since freed blocks are cut up. Without it blocks from 1
    MiB on have pages of their own, from allocation to release. That is for a time in which much is
    allocated to stay: small things then lie together, not as islands between large blocks that
    come and go.

    False where malloc is not glibc's. It affects the whole process, so no import does it.
    """
    return bool(library().fastass_tune_allocator(ctypes.c_int(reuse)))
