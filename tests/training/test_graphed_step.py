"""The step as one CUDA graph: what a replay changes is what the eager step changes, to the bit.

Without a GPU a tape (`tests/support/tape.py`) takes the graph's place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tape import Tape
from torch import Tensor

from fastass import kernels
from fastass.config.schema import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
    RuntimeConfig,
)
from fastass.errors import UserError
from fastass.method.adaptation import MethodSpec, method_spec
from fastass.models.config import ModelConfig
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.device import setup_runtime
from fastass.training import graphed_step
from fastass.training.graphed_step import EAGER_STEPS, CudaGraph, GraphedStep
from fastass.training.optimizers.build import decay, set_rates
from fastass.training.step import TrainStep, build

CLASSES, STEPS = 5, EAGER_STEPS + 5


@pytest.fixture(autouse=True)
def kernels_restored() -> Iterator[None]:
    before = kernels.choice()
    yield
    kernels.use(before)


def config(method: str = "ga+csa", norm: str = "batch", **values: Any) -> Config:
    return Config(
        method=method,  # type: ignore[arg-type]
        steps=3 * STEPS,
        start_steps=STEPS,
        labelled=2,
        model=ModelConfig(
            backbone="tiny",
            width=16,
            num_classes=CLASSES,
            norm=norm,  # type: ignore[arg-type]
        ),
        data=DataConfig(source_size=(64, 48), target_size=(64, 32), normalize="imagenet"),
        discriminator=DiscriminatorConfig(width=4, hidden=16),
        optim=OptimConfig(lr=1e-2, d_lr=1e-3, warmup=STEPS // 2),
        runtime=RuntimeConfig(device="cpu", kernels="reference", tune_allocator=False),
        **values,
    ).resolved()


def spec_of(c: Config) -> MethodSpec:
    return method_spec(c.method, 2, c.mix)


def engine(c: Config, graph: bool = False) -> TrainStep:
    step = TrainStep(build(c, spec_of(c)), c, setup_runtime(c.runtime))
    if graph:
        step.graph = GraphedStep(step.update, step.optimizers, step.runtime.device, Tape)
    return step


def streams(c: Config, seed: int, adapt: bool = True, images: int = 2) -> StepBatch:
    g = torch.Generator().manual_seed(seed)
    spec = spec_of(c) if adapt else spec_of(c).start()

    def stream(size: tuple[int, int], labelled: bool = True) -> Batch:
        width, height = size
        x = torch.randn(images, 3, height, width, generator=g)
        y = torch.randint(0, CLASSES, (images, height // 8, width // 8), generator=g)
        y = y.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
        return Batch(x.contiguous(memory_format=torch.channels_last), y if labelled else None)

    return StepBatch(
        stream(c.data.source_size) if spec.source else None,
        stream(c.data.target_size) if spec.labelled else None,
        stream(c.data.target_size, False) if spec.global_ or spec.mix else None,
    )


def train(step: TrainStep, numbers: range) -> list[tuple[float, ...]]:
    """Steps of a run, with its schedule → the terms. The start comes before the method."""
    c, found = step.config, []
    for number in numbers:
        adapt = number >= c.start_steps
        set_rates(
            step.optimizers.values(),
            decay(number, c.optim, start_steps=c.start_steps, steps=c.steps),
        )
        for optimizer in step.optimizers.values():
            for group in optimizer.param_groups:
                # The graph's rates are fp32.
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float32).item()
        batches = [streams(c, 10 * number + i, adapt) for i in range(c.accumulate)]
        found.append(tuple(t for t in step.step(batches, adapt=adapt) if t is not None))
    return [tuple(t.item() for t in terms) for terms in found]  # read late: they stay as they were


def state(step: TrainStep) -> dict[str, Any]:
    values: dict[str, Any] = dict(step.module.state_dict())
    for name, optimizer in step.optimizers.items():
        for number, of_parameter in optimizer.state_dict()["state"].items():
            values |= {f"{name}.{number}.{key}": value for key, value in of_parameter.items()}
        for number, group in enumerate(optimizer.state_dict()["param_groups"]):
            values |= {f"{name}.group {number}.{key}": value for key, value in group.items()}
    return values | {"ema_updates": step.ema_updates}


def assert_equal(mine: TrainStep, other: TrainStep) -> None:
    a, b = state(mine), state(other)
    assert a.keys() == b.keys()
    for name, value in b.items():
        same = torch.equal(a[name], value) if isinstance(value, Tensor) else a[name] == value
        assert same, name
        assert type(a[name]) is type(value), name


@pytest.mark.parametrize(
    "values",
    [
        {"method": "ga+csa", "norm": "frozen", "ema": 0.9},
        {"method": "ga+csa", "norm": "batch", "ema": 0.9},
        {"method": "ga+fcsa", "norm": "batch"},
        {"method": "ga", "loss": LossConfig(push="both")},
        {"method": "joint"},
        {"method": "oracle"},
        {"method": "source_only", "norm": "frozen"},
        {"backward": "streamed"},
        {"accumulate": 2, "norm": "frozen"},
        {"mix": True, "norm": "frozen"},
        {"mix": True, "method": "joint", "accumulate": 2},
    ],
    ids=lambda values: "-".join(
        f"{v}" if isinstance(v, (str, int)) else "" for v in values.values()
    ),
)
def test_both_phases_are_those_of_the_eager_step(values: dict[str, Any]) -> None:
    c = config(**values)
    eager, graphed = engine(c), engine(c, graph=True)
    numbers = range(2 * STEPS)
    assert train(graphed, numbers) == train(eager, numbers)
    assert_equal(graphed, eager)
    assert graphed.graph is not None
    assert isinstance(graphed.graph._graph, Tape)
    assert graphed.graph._graph.replays == STEPS - EAGER_STEPS


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    """Also where the graph was recorded before the state was loaded, and with it off."""
    c = config(ema=0.9, start_steps=0)
    c = replace(c, start_steps=0)
    whole, first = engine(c, graph=True), engine(c, graph=True)
    train(whole, range(STEPS))
    train(first, range(STEPS))
    weights = {name: value.clone() for name, value in first.module.state_dict().items()}
    kept = first.state()
    kept["optimizers"] = {name: _copied(each) for name, each in kept["optimizers"].items()}
    terms = train(whole, range(STEPS, 2 * STEPS))
    used = engine(c, graph=True)
    train(used, range(STEPS))
    for other in (engine(c, graph=True), engine(c), used):
        other.module.load_state_dict(weights)
        other.load_state(kept)
        assert train(other, range(STEPS, 2 * STEPS)) == terms
        assert_equal(other, whole)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    values = {n: {k: v.clone() for k, v in of.items()} for n, of in state["state"].items()}
    return {"state": values, "param_groups": [dict(group) for group in state["param_groups"]]}
