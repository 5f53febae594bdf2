"""Traces of the roofline model from recorded steps, eager and compiled."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import fake_inductor
import torch
from fake_step import configured, fake_batch, fake_step, record_step
from recorder import Op, launches_to

from fastass.bench.model import trace
from fastass.bench.model.count import Cost, cost, costs
from fastass.config.schema import Config
from fastass.method.adaptation import objective

ROOT = Path(__file__).parents[2]


def traced(method: str, norm: str, mode: str = "eager", backbone: str = "resnet101") -> trace.Trace:
    """The trace of a step, recorded at batch 1 and 2. RuntimeError names the recorder's faults."""
    configs = [configured(method, norm, batch=batch, backbone=backbone) for batch in (1, 2)]
    steps = [record_step(config) for config in configs]
    if steps[0].faults:
        raise RuntimeError(f"{method}, {norm}: {'; '.join(sorted(set(steps[0].faults)))}")
    at_1, at_2 = (list(costs(step.ops)) for step in steps)
    if mode == "compiled":
        at_1, at_2 = (
            compiled_costs(config, eager)
            for config, eager in zip(configs, (at_1, at_2), strict=True)
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
        peak=line(steps[0].peak, steps[1].peak),  # of the eager step in both modes
        rows=rows(at_1, at_2),
    )


def line(one: int, two: int) -> tuple[int, int]:
    """(constant, per image) of a number at batch 1 and batch 2."""
    return 2 * one - two, two - one


def rows(at_1: Sequence[Cost], at_2: Sequence[Cost]) -> tuple[trace.Row, ...]:
    """A step's costs as rows; ValueError where the two batches run different operators."""
    found: Counter[trace.Row] = Counter()
    for a, b in zip(at_1, at_2, strict=True):
        if a[:4] != b[:4]:
            raise ValueError(f"batch 1 runs {a[:4]}, batch 2 {b[:4]}")
        pairs = line(a.bytes, b.bytes), line(a.flops, b.flops)
        found[trace.Row(a.part, a.what, a.kind, 1, a.kernels, *pairs)] += 1
    return tuple(
        trace.Row(r.part, r.what, r.kind, count, r.kernels, r.bytes, r.flops)
        for r, count in sorted(found.items(), key=lambda item: str(item[0]))
    )


def compiled_ops(config: Config) -> list[Op]:
    """What inductor's code for the forward and backward of a step launches."""
    fake_inductor.install()
    torch._dynamo.reset()
    backend = fake_inductor.Generated()
    with fake_step(config) as step, launches_to():
        step.module.train()
        forward = torch.compile(step.module, backend=backend, dynamic=False, fullgraph=True)
        with step.runtime.autocast():
            terms = forward(fake_batch(config), adapt=True)
        objective(terms, config.loss).backward()
    assert [phase for phase, _ in backend.graphs] == ["forward", "backward"]
    return [op for _, ops in backend.graphs for op in ops]


def compiled_costs(config: Config, eager: Sequence[Cost]) -> list[Cost]:
    """Those of the compiled forward and backward, and of the optimizers, which stay eager.

    One of the project's operators launches as many kernels as in the eager step.
    """
    kernels = {c.what: c.kernels for c in eager}
    found = []
    for op in compiled_ops(config):
        if op.name.startswith("inductor:"):
            found.append(Cost("fused kernels", op.name.partition(":")[2], "", 1, op.arguments, 0))
            continue
        for c in cost(op):
            own = op.name.startswith("fastass::")
            found.append(c._replace(kernels=kernels[c.what]) if own else c)
    return found + [c for c in eager if c.part == "optimizers"]
