"""The step as one CUDA graph: what a replay changes is what the eager step changes, to the bit.

Without a GPU a tape (`tests/support/tape.py`) takes the graph's place.
"""

import copy
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
from fastass.training.graphed_step import EAGER_STEPS, CudaGraph, GraphedStep
from fastass.training.optimizers.build import decay, set_rates
from fastass.training.step import TrainStep, build

CLASSES, STEPS = 5, EAGER_STEPS + 4  # in each phase: four replays


@pytest.fixture(autouse=True)
def set_up() -> Iterator[None]:
    """One thread, which is faster for operators of a few microseconds."""
    before, threads = kernels.choice(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
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
        data=DataConfig(source_size=(48, 40), target_size=(40, 32), normalize="imagenet"),
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


def streams(c: Config, seed: int, adapt: bool = True, images: int = 1) -> StepBatch:
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


def train(
    step: TrainStep, numbers: range, device: torch.device | None = None
) -> list[tuple[float, ...]]:
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
        if device is not None:
            batches = [batch.to(device) for batch in batches]
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
    c = replace(config(ema=0.9), start_steps=0)
    whole, first = engine(c, graph=True), engine(c, graph=True)
    train(whole, range(STEPS))
    train(first, range(STEPS))
    weights = {name: value.clone() for name, value in first.module.state_dict().items()}
    kept = copy.deepcopy(first.state())
    terms = train(whole, range(STEPS, STEPS + EAGER_STEPS + 2))
    used = engine(c, graph=True)
    train(used, range(STEPS))
    for other in (engine(c, graph=True), engine(c), used):
        other.module.load_state_dict(weights)
        other.load_state(copy.deepcopy(kept))
        assert train(other, range(STEPS, STEPS + EAGER_STEPS + 2)) == terms
        assert_equal(other, whole)


def test_what_differs_from_step_to_step_is_not_recorded() -> None:
    """The tape itself: a number that is recorded stays, a tensor is read in each replay."""
    x, y, tape = torch.zeros(2), torch.zeros(2), Tape()
    number, tensor = 2.0, torch.tensor(2.0)
    with tape.recording():
        x.add_(number)
        z = y.add_(tensor) * 3
    assert not x.any()
    assert not y.any()
    number, tensor = 5.0, tensor.fill_(5.0)
    for n in (1, 2):
        tape.replay()
        assert x.tolist() == [2.0 * n] * 2
        assert y.tolist() == [5.0 * n] * 2
        assert z.tolist() == [15.0 * n] * 2


def test_rates_are_numbers_again_after_the_recording() -> None:
    step = engine(config(), graph=True)
    train(step, range(STEPS, STEPS + EAGER_STEPS + 1))
    for optimizer in step.optimizers.values():
        for group in optimizer.param_groups:
            assert isinstance(group["lr"], float)
            assert not group.get("capturable")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c, b: streams(c, 1, images=2),
            "images of the source stream: 1x3x40x48 float32 when",
        ),
        (lambda c, b: b._replace(unlabelled=None), "images of the unlabelled stream: 1x.*, absent"),
        (
            lambda c, b: b._replace(mixed=b.source),
            "images of the mixed stream: absent when.*, 1x3x",
        ),
    ],
)
def test_a_batch_of_another_size_is_refused(change: Any, message: str) -> None:
    c = config("ga+csa")
    step = engine(c, graph=True)
    for number in range(EAGER_STEPS + 2):
        step.step([streams(c, number)], adapt=True)
    with pytest.raises(UserError, match=f"--cuda-graph: {message}.*leave out --cuda-graph"):
        step.step([change(c, streams(c, 9))], adapt=True)
    with pytest.raises(UserError, match="images of the source stream of mini-batch 2: absent"):
        step.step([streams(c, 9)] * 2, adapt=True)


class Broken(Tape):
    """Recording fails, as it does where something waits for the GPU, and ending it fails too."""

    @contextmanager
    def recording(self) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")


@pytest.mark.parametrize("failure", [RuntimeError, torch.OutOfMemoryError])
def test_a_step_that_cannot_be_recorded(
    failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = engine(config())
    step.graph = GraphedStep(step.update, step.optimizers, step.runtime.device, Broken)
    train(step, range(EAGER_STEPS))

    def fails(*args: object) -> None:
        raise failure("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(step.graph, "_update", fails)
    message = r"can't be recorded \(operation not permitted when stream is capturing\); leave out"
    with pytest.raises(UserError, match=message) as caught:
        train(step, range(EAGER_STEPS, EAGER_STEPS + 1))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_cuda_graph_is_recorded_on_the_stream_of_its_eager_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the calls alone: no GPU is needed."""
    calls: list[Any] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            calls.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def use(stream: Stream) -> Iterator[None]:
        calls.append(f"on {stream.name}")
        yield

    @contextmanager
    def graph(recorded: Any, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        calls.append(f"record on {stream.name}, {capture_error_mode}")
        yield

    class Recorded:
        def replay(self) -> None:
            calls.append("replay")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("usual"))
    monkeypatch.setattr(torch.cuda, "stream", use)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    made = CudaGraph(torch.device("cuda"))
    with made.warming_up():
        pass
    with made.recording():
        pass
    made.replay()
    assert calls == [
        "side waits for usual",
        "on side",
        "usual waits for side",
        "record on side, thread_local",
        "replay",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_replay_is_the_eager_step_on_a_gpu(norm: str) -> None:
    """With the fp32 rounding of sums in another order: cuDNN's gradients may use atomics."""
    c = replace(config(norm=norm, ema=0.9), runtime=RuntimeConfig(device="cuda"))
    eager, graphed = engine(c), engine(c.with_runtime(cuda_graph=True))
    assert isinstance(graphed.graph, GraphedStep)
    found = [
        torch.tensor(train(step, range(STEPS, 2 * STEPS), torch.device("cuda")))
        for step in (graphed, eager)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
