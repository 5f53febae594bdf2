"""The rates that the roofline model assumes, all in this file.

Nothing here was measured on a GPU. The rates of the H100 are estimates: 2.75 TB/s is 82 % of its
data sheet's bandwidth, as large elementwise kernels reach; the matrix rates are what cuDNN's bf16
NHWC convolutions are expected to reach by their channels. Another GPU has the same shares of its
own data sheet. A changed rate is a commit of its own, with its source and both results.
"""

from dataclasses import dataclass

# NVIDIA's data sheets, SXM modules: dense bf16 FLOP/s without sparsity, bytes/s of the memory.
# A100 80GB: 312 TFLOP/s, 2039 GB/s. H100 80GB: 989.4 TFLOP/s, 3352 GB/s.
# H200 141GB: 989.4 TFLOP/s, 4800 GB/s.
DATA_SHEET = {
    "A100": (312e12, 2.039e12),
    "H100": (989.4e12, 3.352e12),
    "H200": (989.4e12, 4.8e12),
}
MEMORY = {"A100": 80e9, "H100": 80e9, "H200": 141e9}  # bytes

# The H100's, which the others are scaled from.
BANDWIDTH = 2.75e12  # bytes/s
LAUNCH = 2e-6  # seconds between two kernels of a full queue
PEAK = 798e12  # FLOP/s that MFU is a share of
MATRIX = {  # FLOP/s
    "wide": 620e12,
    "narrow": 450e12,  # fewer than 128 input or output channels
    "image": 60e12,  # at most 4 input or output channels
    "from classes": 110e12,  # the 19 channels of P: no multiple of 8
    "to classes": 620e12 * 19 / 64,  # 19 outputs: blocks of 64 are computed
}
CLASSES = 19


@dataclass(frozen=True)
class GPU:
    """Rates of one GPU: bytes/s, FLOP/s by kind of product, FLOP/s that MFU is a share of."""

    name: str
    bandwidth: float
    matrix: dict[str, float]
    peak: float
    memory: float


def gpu(name: str) -> GPU:
    """The rates of an A100, H100 or H200."""
    flops, bandwidth = (a / b for a, b in zip(DATA_SHEET[name], DATA_SHEET["H100"], strict=True))
    return GPU(
        name,
        BANDWIDTH * bandwidth,
        {kind: rate * flops for kind, rate in MATRIX.items()},
        PEAK * flops,
        MEMORY[name],
    )


def convolution_kind(inputs: int, outputs: int) -> str:
    """The kind of product that a convolution of so many channels is."""
    if min(inputs, outputs) <= 4:
        return "image"
    if inputs == CLASSES:
        return "from classes"
    if outputs == CLASSES:
        return "to classes"
    return "narrow" if min(inputs, outputs) < 128 else "wide"
