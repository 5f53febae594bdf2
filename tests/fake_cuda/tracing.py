"""Traces of the roofline model from recorded steps, eager and compiled."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from fake_step import configured, record_step

from fastass import kernels
from fastass.bench.model import trace
from fastass.bench.model.count import Cost, costs

ROOT = Path(__file__).parents[2]
# Inductor treats a dimension of length 1 apart: its code for batch 1 is in another order.
BATCHES = {"eager": (1, 2), "fused": (1, 2), "compiled": (2, 4)}


def traced(method: str, norm: str, mode: str = "eager", backbone: str = "resnet101") -> trace.Trace:
    """The trace of a step, recorded at two batches. RuntimeError names the recorder's faults."""
    batches = BATCHES[mode]
    configs = [configured(method, norm, batch=batch, backbone=backbone) for batch in batches]
    on = mode == "fused"
    configs = [config.with_runtime(fused_batch_norm=on) for config in configs]
    kernels.use_fused("on" if on else "off")
    kernels.use_fused_batch_norm(on)
    steps = [record_step(config) for config in configs]
    if steps[0].faults:
        raise RuntimeError(f"{method}, {norm}: {'; '.join(sorted(set(steps[0].faults)))}")
    small, large = (list(costs(step.ops)) for step in steps)
    if mode == "compiled":
        from compiled_step import compiled_costs  # imports inductor

        # Inductor's order depends on the sizes: the least of a kind belongs to the least.
        small, large = (
            sorted(compiled_costs(config, eager))
            for config, eager in zip(configs, (small, large), strict=True)
        )
    config = configs[0]
    return trace.Trace(
        method=method,
        norm=norm,
        mode=mode,
        backbone=config.model.backbone,
        source_size=config.data.source_size,
        target_size=config.data.target_size,
        classes=config.model.num_classes,
        torch=torch.__version__.partition("+")[0],
        sources=trace.sources_hash(ROOT),
        peak=line(steps[0].peak, steps[1].peak, batches),  # of the eager step in both modes
        rows=rows(small, large, batches),
    )


def line(small: int, large: int, batches: tuple[int, int]) -> tuple[int, int]:
    """(constant, per image) of a number at two batches."""
    per_image = (large - small) // (batches[1] - batches[0])
    return small - per_image * batches[0], per_image


def rows(
    small: Sequence[Cost], large: Sequence[Cost], batches: tuple[int, int]
) -> tuple[trace.Row, ...]:
    """A step's costs as rows; ValueError where the two batches run different operators."""
    found: Counter[trace.Row] = Counter()
    for a, b in zip(small, large, strict=True):
        if a[:4] != b[:4]:
            raise ValueError(f"batch {batches[0]} runs {a[:4]}, batch {batches[1]} {b[:4]}")
        nbytes, flops = line(a.bytes, b.bytes, batches), line(a.flops, b.flops, batches)
        found[trace.Row(a.part, a.what, a.kind, 1, a.kernels, nbytes, flops)] += 1
    return tuple(
        trace.Row(r.part, r.what, r.kind, count, r.kernels, r.bytes, r.flops)
        for r, count in sorted(found.items(), key=lambda item: str(item[0]))
    )
