"""The most memory that this process had in use at one time."""

import resource
import sys
from pathlib import Path

import torch

KIB = 1024


def peak_memory(device: torch.device) -> int:
    """Bytes: allocated on a GPU; resident on a CPU, with libraries and interpreter."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return process_status("VmHWM")
    except OSError:  # not Linux
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * KIB


def process_status(key: str) -> int:
    """Bytes that Linux states of this process: VmHWM, its peak, or VmRSS.

    The peak of `getrusage` is no substitute: a process that a large one starts takes over the peak
    of that one. OSError where there is no /proc.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return KIB * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
