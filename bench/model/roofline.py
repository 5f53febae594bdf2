"""Modelled milliseconds of a step: for every operation the slower of its bytes and its FLOPs.

    t = max(bytes / bandwidth, FLOPs / matrix rate) + kernels · launch

Kernels of one step run one after the other on a queue that is never empty: time that the CPU takes
to launch is not part of it (at batch 1 it is longer than the GPU's), nor is loading data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastass.bench.model.rates import GPU, LAUNCH
from fastass.bench.model.trace import Trace, at


@dataclass(frozen=True)
class Part:
    """Of a step, or the whole of it. seconds are modelled."""

    name: str
    kernels: int
    bytes: int
    flops: int
    seconds: float


def parts(trace: Trace, gpu: GPU, batch: int) -> list[Part]:
    """The parts of a step, the longest first."""
    found: dict[str, Part] = {}
    for row in trace.rows:
        nbytes, flops = at(row.bytes, batch), at(row.flops, batch)
        products = flops / gpu.matrix[row.kind] if flops else 0.0
        seconds = row.count * (max(nbytes / gpu.bandwidth, products) + row.kernels * LAUNCH)
        one = Part(
            row.part, row.count * row.kernels, row.count * nbytes, row.count * flops, seconds
        )
        found[row.part] = total([found[row.part], one], row.part) if row.part in found else one
    return sorted(found.values(), key=lambda part: -part.seconds)


def total(of: Sequence[Part], name: str = "step") -> Part:
    """The sum of several parts."""
    return Part(
        name,
        sum(part.kernels for part in of),
        sum(part.bytes for part in of),
        sum(part.flops for part in of),
        sum(part.seconds for part in of),
    )


RESERVED = 0.1  # of a GPU's memory: CUDA, cuDNN's workspaces, pieces that no tensor fits


def largest_batch(trace: Trace, memory: float) -> int:
    """The largest batch whose tensors are expected to fit into `memory` bytes; 0: none."""
    fixed, per_image = trace.peak
    return max(0, int(((1 - RESERVED) * memory - fixed) // per_image))


def table(of: Sequence[Part]) -> str:
    """Markdown: every part and the step."""
    step = total(of)
    lines = ["| part | kernels | GB | TFLOP | modelled ms | share |", "|---|---|---|---|---|---|"]
    for part in (*of, step):
        lines.append(
            f"| {part.name} | {part.kernels} | {part.bytes / 1e9:.2f} | {part.flops / 1e12:.2f} | "
            f"{1e3 * part.seconds:.2f} | {100 * part.seconds / step.seconds:.1f} % |"
        )
    return "\n".join(lines)
