"""Stage `cuda-graph`: the step of batch 1 as one CUDA graph, in time and in its losses."""

from functools import partial

import torch
from torch import Tensor

from fastass.bench.first_contact.engine import configured, free, of_engine, spec_of
from fastass.bench.first_contact.stages import Context
from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.pipelines.errors import one_line
from fastass.runtime.device import setup_runtime
from fastass.training.graphed_step import EAGER_STEPS
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

REPLAYS = 4


def graphed(context: Context) -> None:
    """First whether a replay computes what the eager step computes, then both times."""
    if context.device.startswith("cpu"):
        context.results.write(what="skipped", reason="a CUDA graph needs a GPU")
        return
    config = configured(context, "frozen", 1)
    configs = {on: config.with_runtime(cuda_graph=on) for on in (False, True)}
    try:
        eager, recorded = (losses(config) for config in configs.values())
        difference = largest_difference(eager, recorded)
        context.results.write(what="graph against eager", steps=len(eager), difference=difference)
    except (RuntimeError, UserError) as error:
        reason = one_line(error, 500)
        context.results.write(what="failed", mode="graph against eager", reason=reason)
    for on, config in configs.items():
        of_engine(context, config, mode="cuda graph" if on else "eager")
        free()


def losses(config: Config) -> Tensor:
    """[steps, terms] of the first steps from the same weights, on one batch."""
    runtime, spec = setup_runtime(config.runtime), spec_of(config)
    step = TrainStep(build(config, spec), config, runtime)
    batch = random_batch(config, spec, runtime.device, channels_last=True)
    run = partial(step.step, [batch], adapt=True)
    steps = [run() for _ in range(EAGER_STEPS + REPLAYS)]
    found = torch.stack([torch.stack([t for t in terms if t is not None]) for terms in steps])
    del step, batch, run, steps
    free()
    return found.float().cpu()


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest relative difference of any loss."""
    return float(((a - b).abs() / a.abs().clamp(min=1e-6)).max())
