"""The 3×3 convolutions of the networks and D_g's on one core, with and without Winograd's form.

    python -m bench.convolutions [--seconds 9]

CPU seconds, the least of interleaved calls, so that a machine with other work gives about the same
numbers as a quiet one. For wall time on all cores: `pytest bench/ops/test_conv3x3.py`.
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

from fastass.runtime.openmp import wait_passively

wait_passively()  # before torch is loaded: its idle threads wait as they do in training

# isort: split
import torch  # noqa: E402
from torch import nn  # noqa: E402

from fastass.kernels import native_library  # noqa: E402
from fastass.kernels.convolution.conv2d import conv2d, gradients, use_winograd  # noqa: E402
from fastass.kernels.convolution.winograd.conv4x4_stride2 import halve, halve_backward  # noqa: E402


class Layer(NamedTuple):
    """Channels, the size of the map, dilation."""

    inputs: int
    outputs: int
    height: int
    width: int
    dilation: int

    def __str__(self) -> str:
        inputs, outputs, h, w, d = self
        return f"{inputs} → {outputs}, {h}×{w}, {d}"

    def parts(self) -> list[Callable[[], object]]:
        """The three parts of a training step, of channels-last tensors."""
        inputs, outputs, h, w, d = self
        conv = nn.Conv2d(inputs, outputs, 3, padding=d, dilation=d, bias=False)
        conv.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(1, h, w, inputs).relu().permute(0, 3, 1, 2)
        g = torch.randn(1, h, w, outputs).permute(0, 3, 1, 2)
        return [
            lambda: conv2d(x, conv.weight, None, conv),
            lambda: gradients(g, x, conv.weight, conv, (True, False, False)),
            lambda: gradients(g, x, conv.weight, conv, (False, True, False)),
        ]


class Halving(NamedTuple):
    """Channels, the size of the map: 4×4 of stride 2, with leaky ReLUs before and after."""

    inputs: int
    outputs: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.inputs} → {self.outputs}, {self.height}×{self.width}"

    def parts(self) -> list[Callable[[], object]]:
        """The same; the weight's gradient with the bias's."""
        inputs, outputs, h, w = self
        conv = nn.Conv2d(inputs, outputs, 4, 2, 1)
        conv.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(1, h, w, inputs).permute(0, 3, 1, 2)
        g = torch.randn(1, h // 2, w // 2, outputs).permute(0, 3, 1, 2)
        return [
            lambda: halve(x, conv, leaky=True),
            lambda: halve_backward(g, x, conv, gated=True, to_x=True, to_weight=False),
            lambda: halve_backward(g, x, conv, gated=True, to_x=False, to_weight=True),
        ]


LAYERS: dict[str, Layer | Halving] = {  # for a 512×256 image where nothing else is said
    "stage 1": Layer(64, 64, 65, 129, 1),
    "stage 2": Layer(128, 128, 33, 65, 1),
    "stage 3": Layer(256, 256, 33, 65, 2),
    "stage 4": Layer(512, 512, 33, 65, 4),
    "stage 3, 1280×720": Layer(256, 256, 91, 161, 2),
    "ToyCity, stage 3": Layer(32, 96, 17, 33, 2),
    "ToyCity, stage 4": Layer(96, 96, 17, 33, 4),
    "ToyCity, D_g's first": Halving(19, 16, 144, 256),
    "… second": Halving(16, 32, 72, 128),
    "… third": Halving(32, 64, 36, 64),
    "… fourth": Halving(64, 128, 18, 32),
    "D_g's first, 512×256": Halving(19, 64, 256, 512),
}
PARTS = ("output", "input's gradient", "weight's gradient")


def measure(layer: Layer | Halving, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of each part, without and with Winograd's form."""
    calls = layer.parts()
    best = ([float("inf")] * len(calls), [float("inf")] * len(calls))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for on in (False, True):
            use_winograd(on)
            for i, call in enumerate(calls):
                start = time.process_time()
                call()
                best[on][i] = min(best[on][i], 1e3 * (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.convolutions")
    parser.add_argument("--seconds", type=float, default=9, help="of one layer (9)")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    native_library.tune_allocator(reuse=True)
    print(f"torch {torch.__version__}, {native_library.isa()}; CPU ms\n")
    print("| " + " | ".join(["layer", "channels, map, dilation", *PARTS, "all"]) + " |")
    print("|---" * (len(PARTS) + 3) + "|")
    for name, layer in LAYERS.items():
        without, ours = measure(layer, seconds)
        cells = [f"{a:.3g} → {b:.3g}" for a, b in zip(without, ours, strict=True)]
        cells = [name, str(layer), *cells]
        print("| " + " | ".join([*cells, f"{sum(without) / sum(ours):.2f}×"]) + " |", flush=True)


if __name__ == "__main__":
    main()
