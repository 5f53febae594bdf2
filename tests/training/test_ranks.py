"""Several ranks train what one rank trains: losses, gradients and weights within rounding."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from ranks import CLASSES, SIZE, free_port, run_ranks, uneven_batch
from torch import Tensor

from fastass import kernels
from fastass.config.schema import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    OptimConfig,
    RuntimeConfig,
)
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.device import setup_runtime
from fastass.runtime.process_group import World, join
from fastass.runtime.signals import Interrupted
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build


def config(method: str, norm: str = "frozen", checkpoint: bool = False, **more: Any) -> Config:
    return Config(
        method=method,  # type: ignore[arg-type]
        labelled=4,
        steps=3,
        model=ModelConfig(
            backbone="tiny",
            width=16,
            num_classes=CLASSES,
            norm=norm,  # type: ignore[arg-type]
            checkpoint_activations=checkpoint,
        ),
        discriminator=DiscriminatorConfig(width=4, hidden=8),
        optim=OptimConfig(lr=0.05, head_lr=1.0, d_lr=1e-3),
        runtime=RuntimeConfig(tune_allocator=False, kernels="reference"),
        **more,
    ).resolved()


def part(streams: StepBatch, start: int, end: int) -> StepBatch:
    def cut(s: Batch | None) -> Batch | None:
        if s is None:
            return None
        return Batch(s.images[start:end], None if s.labels is None else s.labels[start:end])

    return StepBatch(*(cut(s) for s in streams))


def train(world: World, c: Config, images: int, start: int = 1) -> tuple[list[Tensor], Any]:
    """`steps` steps, the first `start` of them supervised → summed terms and final weights."""
    spec = method_spec(c.method, c.labelled)
    c = replace(c, distributed=replace(c.distributed, world=world.size))
    engine = TrainStep(build(c, spec).double(), c, setup_runtime(c.runtime), world)
    each = images // (world.size * c.accumulate)
    losses = []
    for step in range(c.steps):
        whole = uneven_batch(step, images)
        if not spec.semantic:
            whole = whole._replace(labelled=None)
        if step < start:
            whole = StepBatch(source=whole.source)
        firsts = [(a * world.size + world.rank) * each for a in range(c.accumulate)]
        batches = [part(whole, first, first + each) for first in firsts]
        terms = engine.step(batches, adapt=step >= start)
        values = torch.stack(
            [torch.zeros((), dtype=torch.float64) if t is None else t for t in terms]
        )
        losses.append(world.sum(values))
    return losses, {k: v.clone() for k, v in engine.module.state_dict().items()}


def assert_same(one: tuple[list[Tensor], Any], other: tuple[list[Tensor], Any]) -> None:
    """Equal in float64, but for the order of sums."""
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=1e-7, atol=1e-10)


METHODS = ("ga", "ga+fcsa", "ga+csa")


@pytest.fixture(scope="module")
def truth() -> Iterator[dict[str, Any]]:
    yield {method: train(World(), config(method), 4) for method in METHODS}
    kernels.use("auto")


def several(world: World, configs: list[Config]) -> list[Any]:
    return [train(world, c, 4) for c in configs]


@pytest.mark.parametrize("size", [2, 4])
def test_the_ranks_train_as_one(truth: dict[str, Any], size: int) -> None:
    cases = [("fused", 1), ("streamed", 1), ("fused", 2), ("streamed", 2)]
    configs = [
        config(method, backward=backward, accumulate=accumulate)
        for method in (METHODS if size == 2 else METHODS[-1:])
        for backward, accumulate in cases
        if size * accumulate <= 4
    ]
    for results in run_ranks(size, several, configs):
        for c, result in zip(configs, results, strict=True):
            assert_same(truth[c.method], result)


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_with_shared_statistics_train_as_one(size: int) -> None:
    """Norm `sync`: also the running statistics, of all streams and of the target's."""
    cases = [
        ("ga+csa", "fused", False),
        ("ga+csa", "streamed", True),
        ("ga+fcsa", "streamed", False),
    ]
    configs = [
        config(method, "sync", checkpoint, backward=backward)
        for method, backward, checkpoint in cases
    ]
    wanted = [train(World(), c, 4) for c in configs]
    kernels.use("auto")
    names = wanted[0][1].keys()
    assert any("target_statistics" in name for name in names)
    for results in run_ranks(size, several, configs):
        for one, result in zip(wanted, results, strict=True):
            assert_same(one, result)


@pytest.mark.parametrize("backward", ["fused", "streamed"])
def test_accumulation_is_one_large_batch(truth: dict[str, Any], backward: str) -> None:
    for method in METHODS:
        c = config(method, accumulate=4, backward=backward)
        assert_same(truth[method], train(World(), c, 4))


def in_silence(world: World, configs: list[Config]) -> None:
    """Steps under which a warning is an error, such as that of torch about gradients' strides."""
    for c in configs:
        spec = method_spec(c.method, c.labelled)
        engine = TrainStep(build(c, spec), c, setup_runtime(c.runtime), world)
        batch = random_batch(c, spec, engine.runtime.device, channels_last=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(2):
                engine.step([batch] * c.accumulate, adapt=True)


def test_no_gradient_has_other_strides_than_its_bucket() -> None:
    """Wide enough for the CPU's own form of 1×1 convolutions (64 → 192 channels), in fp32."""
    configs = [
        replace(
            config("ga+csa", backward=backward, accumulate=accumulate),
            model=ModelConfig(backbone="tiny", width=32, num_classes=CLASSES, norm=norm),
            data=DataConfig(source_size=SIZE[::-1], target_size=SIZE[::-1]),
        )
        for norm in ("batch", "frozen")
        for backward, accumulate in (("fused", 1), ("fused", 2), ("streamed", 1), ("streamed", 2))
    ]
    run_ranks(2, in_silence, configs)


def compiled_beside_eager(world: World, configs: list[Config]) -> list[float]:
    """By how much the weights differ after three steps, as a share of how far they have moved."""
    torch.compile = functools.partial(_compile, torch.compile)
    found = []
    for c in configs:
        torch._dynamo.reset()
        spec = method_spec(c.method, c.labelled)
        engines = [
            TrainStep(build(c, spec), k, setup_runtime(c.runtime), world)
            for k in (c, c.with_runtime(compile=True))
        ]
        batch = random_batch(c, spec, torch.device("cpu"), channels_last=True)
        start = [p.detach().clone() for p in engines[0].module.parameters()]
        for _ in range(3):
            for engine in engines:
                engine.step([batch] * c.accumulate, adapt=True)
        shares = [
            float((a - b).norm() / (a - before).norm())
            for a, b, before in zip(*(e.module.parameters() for e in engines), start, strict=True)
        ]
        found.append(float(torch.tensor(shares).max()))  # NaN if one is
    return found


def _compile(compile: Any, module: Any, *, mode: str, dynamic: bool) -> Any:
    return compile(module, backend="eager", dynamic=dynamic)


@pytest.mark.slow
def test_compiled_ranks_train_as_eager_ones() -> None:
    """What is traced and exchanged: the graphs run as they are. An eager step computes D_g and the
    classifier's gradients in forms of its own, so the sums round differently."""
    configs = [
        replace(
            config("ga+csa", backward=backward, accumulate=accumulate),
            data=DataConfig(source_size=SIZE[::-1], target_size=SIZE[::-1]),
        )
        for backward, accumulate in (("fused", 1), ("fused", 2), ("streamed", 1))
    ]
    for found in run_ranks(2, compiled_beside_eager, configs):
        assert max(found) < 1e-6, found


@pytest.mark.parametrize("interrupted", [False, True])
def test_ranks_part_when_no_exchange_is_under_way(
    monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """Nobody leaves before all are there, nor while gloo's threads hold the last tensor."""
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in {**rank, **address}.items():
        monkeypatch.setenv(name, value)
    order: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            order.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(World, "sum", noted("exchange", World.sum))
    counts = iter([3, 2, 1])
    monkeypatch.setattr(Tensor, "_use_count", noted("looked", lambda _: next(counts)))
    leave = torch.distributed.destroy_process_group
    monkeypatch.setattr(torch.distributed, "destroy_process_group", noted("leave", leave))
    ending = pytest.raises(Interrupted) if interrupted else contextlib.nullcontext()
    with ending, join("cpu", 10):
        order.append("work")
        if interrupted:
            raise Interrupted("as asked", 0)
    assert order == ["work", "exchange", *["looked"] * 3, "leave"]


def _one_exchange(world: World, _: None) -> int:
    """Its last tensor is forgotten as the process ends."""
    world.sum(torch.zeros(1 << 16))
    return world.rank


@pytest.mark.slow
def test_no_rank_aborts_as_it_ends() -> None:
    for _ in range(10):
        assert run_ranks(2, _one_exchange, None) == [0, 1]
