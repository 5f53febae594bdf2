"""The highest rate of multiply-adds that a device is seen to reach."""

import time

import torch
import torch.nn.functional as F


def peak_rate(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """FLOP/s of the best of a large matrix product and a large 3×3 convolution.

    Both, because the library behind one of them may not know the processor: on AMD's, oneDNN's
    convolutions run faster than MKL's products.
    """
    cuda = device.type == "cuda"
    n, channels, side = (8192, 1024, 128) if cuda else (1024, 256, 48)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(1, channels, side, side, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    best = 0.0
    for flops, call in (
        (2 * n**3, lambda: a @ b),
        (2 * side**2 * channels**2 * 9, lambda: F.conv2d(x, weight, padding=1)),
    ):
        with torch.no_grad():
            call()
            for _ in range(rounds):
                if cuda:
                    torch.cuda.synchronize(device)
                start = time.perf_counter()
                call()
                if cuda:
                    torch.cuda.synchronize(device)
                best = max(best, flops / (time.perf_counter() - start))
    return best
