"""What the benchmarks measure with: synchronised time, peak memory, and the machine's limits."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from fastass.runtime.peak_memory import peak_memory, process_status

CALLS = 20  # that a GPU is given at once; waiting for each would count the wait
COPY_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle; a CPU always is."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, device idle before and after."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def per_call(call: Callable[[], object], device: torch.device, calls: int = CALLS) -> float:
    """Seconds of one call: on CUDA the mean of `calls` in a row by the GPU's clock, else `timed`.

    A call that the CPU launches more slowly than the GPU runs counts with its launches.
    """
    if device.type != "cuda":
        return timed(call, device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1e3 / calls


def reset_peak(device: torch.device) -> None:
    """Start the high-water mark of memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def memory_bytes(device: torch.device) -> int:
    """Bytes in use: allocated on CUDA; on a CPU resident, with libraries and interpreter."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return process_status("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since `reset_peak`, counted as by `memory_bytes`."""
    return peak_memory(device)


def peak_of(call: Callable[[], object], device: torch.device) -> int:
    """Bytes by which one call raises the memory in use at its peak."""
    gc.collect()
    if device.type == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # freed blocks go back to the system first
    synchronize(device)
    reset_peak(device)
    before = memory_bytes(device)
    call()
    synchronize(device)
    return max(0, peak_bytes(device) - before)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a large copy."""
    size = COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source).copy_(source)
    seconds = [per_call(lambda: target.copy_(source), device) for _ in range(15)]
    return 2 * size / statistics.median(seconds)


def peak_rate(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """The highest rate of multiply-adds that the device is seen to reach, in FLOP/s.

    The faster of a large matrix product and a large 3×3 convolution counts, because the library
    behind one of them may not know the processor: on AMD's, oneDNN's convolutions are faster than
    MKL's products.
    """
    n, channels, side = (8192, 1024, 128) if device.type == "cuda" else (1024, 256, 48)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(1, channels, side, side, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    products: tuple[tuple[int, Callable[[], object]], ...] = (
        (2 * n**3, lambda: a @ b),
        (2 * side**2 * channels**2 * 9, lambda: F.conv2d(x, weight, padding=1)),
    )
    rates: list[float] = []
    for flops, call in products:
        with torch.no_grad():
            call()
            rates += [flops / per_call(call, device) for _ in range(rounds)]
    return max(rates)
