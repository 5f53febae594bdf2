"""A CUDA device without a GPU: tensors without data can be on `cuda`, and no kernel is called.

`build` compiles fake_cuda.cpp against the headers of the torch that is installed, with or without
CUDA; `install` loads the result. It changes the whole process and must come before torch is
imported, so tests use it in processes of their own.
"""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
BUILT = SOURCE.parents[2] / "build" / "fake_cuda"


_library: ctypes.CDLL | None = None


class Unavailable(Exception):
    """The library can't be built here; the message is the reason."""


def build() -> Path:
    """The compiled library, kept in build/fake_cuda for each version of torch and of the source."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise Unavailable("no C++ compiler: install one, or name it in CXX")
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise Unavailable("torch is not installed")
    torch = Path(found.origin).parent
    if not (torch / "include" / "c10").is_dir():
        raise Unavailable(f"{torch}: this torch has no C++ headers")
    version = (torch / "version.py").read_bytes() + sysconfig.get_platform().encode()
    key = hashlib.sha256(SOURCE.read_bytes() + version + str(torch).encode()).hexdigest()[:16]
    library = BUILT / f"{key}.so"
    if library.is_file():
        return library
    BUILT.mkdir(parents=True, exist_ok=True)
    unfinished = BUILT / f"{key}.{os.getpid()}.so"
    command = [compiler, "-shared", "-fPIC", "-std=c++20", "-O1", f"-I{torch / 'include'}"]
    command += [str(SOURCE), f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    command += [f"-Wl,-rpath,{torch / 'lib'}", "-o", str(unfinished)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        first = next((line for line in ran.stderr.splitlines() if "error" in line), ran.stderr)
        raise Unavailable(f"{SOURCE.name} does not compile with {compiler}: {first.strip()}")
    unfinished.replace(library)
    return library


def install() -> None:
    """Build, load, and let torch believe in one CUDA device with bf16. Once is enough."""
    global _library
    if _library is not None:
        return
    if "torch" in sys.modules:
        raise RuntimeError("the fake CUDA device must be installed before torch is imported")
    _library = ctypes.CDLL(str(build()), ctypes.RTLD_GLOBAL)
    import torch

    _library.fake_cuda_install()
    import torch.cuda.amp.common as common

    # Nothing below allocates or launches: Python's own checks for a driver are answered here.
    common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    fused = ("_fused_sgd_", "_fused_adam_", "_fused_adamw_")
    for name in (*fused, *(f"{each}.tensor_lr" for each in fused)):
        # In place, and without data there is nothing to compute; not every torch has a rule.
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            torch.library.impl(f"aten::{name}", "Meta", lambda *args, **kwargs: None)
    _define_cudnn_fused(torch)


def _define_cudnn_fused(torch: Any) -> None:
    """cuDNN's convolutions with an epilogue: the convolution's result, channels-last as x is."""

    def relu(x: Any, weight: Any, bias: Any, *geometry: Any) -> Any:
        *sizes, groups = geometry
        y = torch.ops.aten.convolution(x, weight, None, *sizes, False, (0, 0), groups)
        last = x.is_contiguous(memory_format=torch.channels_last)
        return y.contiguous(memory_format=torch.channels_last) if last else y

    def add_relu(x: Any, weight: Any, z: Any, alpha: Any, bias: Any, *geometry: Any) -> Any:
        return relu(x, weight, bias, *geometry)

    torch.library.impl("aten::cudnn_convolution_relu", "Meta", relu)
    torch.library.impl("aten::cudnn_convolution_add_relu", "Meta", add_relu)
