"""Stage `machine`: what the numbers were measured on, and the limits that they are held against."""

import os
import platform

import torch

from fastass.bench.first_contact.stages import Context
from fastass.bench.meters import copy_bandwidth, peak_rate
from fastass.checkpoint.run_directory import versions
from fastass.runtime.device import choose_device


def machine(context: Context) -> None:
    """Versions; then GB/s of a large copy and TFLOP/s of the fastest product, each once known."""
    device = choose_device(context.device)
    values: dict[str, object] = {"cpu": platform.machine(), "cores": os.cpu_count()}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        values |= {
            "gpu": about.name,
            "capability": f"{about.major}.{about.minor}",
            "memory_gb": about.total_memory / 1e9,
            "multiprocessors": about.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    context.results.write(what="versions", **versions(), **values)
    context.results.write(what="copy", gb_per_second=copy_bandwidth(device) / 1e9)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rate = peak_rate(device, dtype)
    context.results.write(what="product", dtype=str(dtype)[6:], tflop_per_second=rate / 1e12)
