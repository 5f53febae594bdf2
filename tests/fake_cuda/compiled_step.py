"""The training step through Dynamo, AOTAutograd and inductor's code generation."""

from collections.abc import Sequence

import fake_inductor
import torch
from fake_step import fake_batch, fake_step
from recorder import Op, launches_to

from fastass.bench.model.count import Cost, cost
from fastass.config.schema import Config
from fastass.method.adaptation import objective
from fastass.runtime.inductor import keep_channels_last


def compiled_ops(config: Config) -> list[Op]:
    """What inductor's code for the forward and backward of a step launches."""
    fake_inductor.install()
    keep_channels_last()
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
