"""The concurrent backward: the fused step's results, whoever of the two threads is faster."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fastass.config.schema import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    OptimConfig,
    RuntimeConfig,
)
from fastass.kernels.convolution import running_statistics
from fastass.kernels.convolution.batch_norm import batch_norm
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.models.domain_statistics import feed
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.device import setup_runtime
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.concurrent_backward import ConcurrentBackward, choose_backward
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

CPU = torch.device("cpu")
CONFIG = Config(
    method="ga+csa",
    labelled=2,
    steps=10,
    batch=2,
    backward="concurrent",
    runtime=RuntimeConfig(device="cpu", tune_allocator=False),
    model=ModelConfig(backbone="tiny", num_classes=5),
    data=DataConfig(source_size=(96, 64), target_size=(80, 64)),
    discriminator=DiscriminatorConfig(width=4, hidden=16),
    optim=OptimConfig(lr=1e-3, d_lr=1e-3),
).resolved()

MIX = replace(CONFIG, method="joint", mix=True)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def engine(config: Config = CONFIG, amp: torch.dtype | None = None) -> TrainStep:
    runtime = replace(setup_runtime(config.runtime), amp_dtype=amp)  # also where amp is slow
    return TrainStep(build(config, method_spec(config.method, 2, config.mix)), config, runtime)


def batch(config: Config = CONFIG) -> StepBatch:
    spec = method_spec(config.method, 2, config.mix)
    return random_batch(config, spec, CPU, channels_last=True)


@pytest.mark.parametrize("method", ["ga", "ga+fcsa", "ga+csa", "joint"])
@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_it_is_the_fused_step(method: str, kernels: str) -> None:
    """Terms, weights, running statistics and their counters, with native and torch's norms."""
    config = replace(CONFIG, method=method).with_runtime(kernels=kernels)  # type: ignore[arg-type]
    concurrent, fused = engine(config), engine(replace(config, backward="fused"))
    assert concurrent.concurrent_backward is not None
    assert fused.concurrent_backward is None
    for step in range(3):
        streams = batch(replace(config, seed=step))
        ours, theirs = (e.step([streams], adapt=True) for e in (concurrent, fused))
        for name, term in ours._asdict().items():
            expected = getattr(theirs, name)
            assert (term is None) == (expected is None), name
            if term is not None:
                torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-6, msg=name)
    state = fused.module.state_dict()
    assert int(state["generator.backbone.bn1.num_batches_tracked"]) == 3 * sum(
        stream is not None for stream in batch(config)
    )
    for name, value in concurrent.module.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [CONFIG, MIX], ids=["ga+csa", "joint+mix"])
def test_the_same_bits_whichever_thread_is_faster(config: Config, amp: torch.dtype | None) -> None:
    """Autocast's rounded weights too: a thread that ends first would drop those of the other."""
    states = []
    for late in (None, "source", "target", "second of target"):
        e = engine(config, amp)
        forwards: list[None] = []  # of the target

        def wait(*_: object, late: str | None = late) -> None:
            is_main = threading.current_thread() is threading.main_thread()
            if late == ("source" if is_main else "target"):
                time.sleep(0.05)

        def between(*_: object, late: str | None = late, forwards: list[None] = forwards) -> None:
            wait(late=late)
            if threading.current_thread() is not threading.main_thread():
                forwards.append(None)
                if late == "second of target" and len(forwards) % 2 == 0:
                    time.sleep(0.3)  # the source's forward ends meanwhile

        e.generator.register_forward_pre_hook(between)
        for branch in e.generator.classifier.branches:
            branch.get_parameter("weight").register_hook(
                wait
            )  # before the thread adds its gradient
        for seed in range(3):
            e.step([batch(replace(config, seed=seed))], adapt=True)
        states.append(e.module.state_dict())
    for other in states[1:]:
        assert all(torch.equal(states[0][name], value) for name, value in other.items())


def test_each_side_has_its_half_of_the_cores() -> None:
    def threads(part: str) -> tuple[str, int, str]:
        return part, torch.get_num_threads(), threading.current_thread().name

    for all_threads, halves in ((2, (1, 1)), (5, (3, 2))):
        torch.set_num_threads(all_threads)
        results = ConcurrentBackward().run(threads, ["a"], ["b", "c"])
        assert [part for part, *_ in results] == ["a", "b", "c"]
        assert [n for _, n, _ in results] == [halves[0], halves[1], halves[1]]
        assert results[0][2] == threading.current_thread().name
        assert results[1][2] == results[2][2] != results[0][2]
        assert torch.get_num_threads() == all_threads


@pytest.mark.parametrize("failing", ["a", "b"])
def test_an_error_waits_for_the_other_thread(failing: str) -> None:
    done = []

    def work(part: str) -> None:
        if part == failing:
            raise ValueError(f"part {part}")
        time.sleep(0.1)
        done.append(part)

    with pytest.raises(ValueError, match=f"part {failing}"):
        ConcurrentBackward().run(work, ["a"], ["b"])
    assert len(done) == 1
    assert torch.get_num_threads() == 2
    assert not running_statistics.is_collecting()


def test_where_it_is_not_available_the_heading_says_why() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"runtime": RuntimeConfig(compile=True)}, "with --compile"),
        ({"accumulate": 2}, "--accumulate above 1"),
        ({"model": replace(CONFIG.model, checkpoint_activations=True)}, "activation checkpointing"),
        ({"model": replace(CONFIG.model, norm="sync")}, "norm sync"),
    ]
    for values, words in changes:
        config = replace(CONFIG, **values)
        backward = choose_backward(config, CPU, SINGLE_PROCESS)
        assert backward.kind == "fused"
        assert backward.describe().startswith("backward fused (concurrent: ")
        assert words in backward.describe()
    cuda = torch.device("cuda")
    assert "needs a CPU" in choose_backward(CONFIG, cuda, SINGLE_PROCESS).reason
    grouped = replace(SINGLE_PROCESS, grouped=True)
    assert isinstance(grouped, World)
    assert "several ranks" in choose_backward(CONFIG, CPU, grouped).reason
    assert choose_backward(CONFIG, CPU, SINGLE_PROCESS).describe() == "backward concurrent"
    torch.set_num_threads(1)
    assert "two threads" in choose_backward(CONFIG, CPU, SINGLE_PROCESS).reason
    assert engine().concurrent_backward is None
    streamed = replace(CONFIG, backward="streamed")
    assert choose_backward(streamed, CPU, SINGLE_PROCESS).describe() == "backward streamed"


def test_auto_is_streamed_where_it_costs_nothing() -> None:
    cuda, grouped = torch.device("cuda"), replace(SINGLE_PROCESS, grouped=True)
    auto = replace(CONFIG, backward="auto")
    frozen, batch, sync = (
        replace(auto, model=replace(auto.model, norm=norm)) for norm in ("frozen", "batch", "sync")
    )
    cases = [
        (frozen, cuda, SINGLE_PROCESS, "streamed"),
        (frozen.with_runtime(compile=True), cuda, SINGLE_PROCESS, "fused"),
        (frozen, cuda, grouped, "fused"),
        (frozen, CPU, SINGLE_PROCESS, "fused"),
        (batch, cuda, SINGLE_PROCESS, "fused"),
        (batch.with_runtime(fused_batch_norm=True), cuda, SINGLE_PROCESS, "streamed"),
        (sync.with_runtime(fused_batch_norm=True), cuda, SINGLE_PROCESS, "fused"),
    ]
    for config, device, world, kind in cases:
        assert choose_backward(config, device, world).kind == kind
    said = choose_backward(frozen, cuda, SINGLE_PROCESS).describe()
    assert said == "backward streamed (on one GPU it saves memory)"
    assert frozen.resolved().model.recompute_sums is False  # it has the memory


def test_a_start_has_one_stream_and_all_threads() -> None:
    e = engine()
    seen = []
    e.generator.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    e.step([batch()._replace(labelled=None, unlabelled=None)], adapt=False)
    assert seen == [2]


@pytest.mark.parametrize("native", [True, False])
def test_collected_statistics_are_those_of_torch(native: bool) -> None:
    """Two forwards, collected and fed: what the same forwards change at once."""
    torch.manual_seed(0)
    ours, theirs = nn.BatchNorm2d(32, momentum=0.2), nn.BatchNorm2d(32, momentum=0.2)
    layout = torch.channels_last if native else torch.contiguous_format
    maps = [(torch.randn(2, 32, 5, 7) + i).contiguous(memory_format=layout) for i in range(2)]
    with running_statistics.collected() as seen:
        found = [batch_norm(x, ours) for x in maps]
    assert int(ours.num_batches_tracked) == 0  # type: ignore[arg-type]
    assert not ours.running_mean.any()  # type: ignore[union-attr]
    feed(seen, None)
    for x, y in zip(maps, found, strict=True):
        torch.testing.assert_close(y, theirs(x), rtol=1e-5, atol=1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
