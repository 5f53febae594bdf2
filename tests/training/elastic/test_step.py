"""The members of a step train what one process trains over the same images."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from ranks import CLASSES, uneven_batch
from torch import Tensor

from fastass.config.schema import Config, DiscriminatorConfig, OptimConfig, RuntimeConfig
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.pipelines.loaders.order import pieces, share
from fastass.runtime.device import setup_runtime
from fastass.runtime.elastic import StepLost
from fastass.training.elastic.step import ElasticStep
from fastass.training.step import TrainStep, build

IMAGES = 5
T = TypeVar("T")


class FakeMembers:
    """One of several threads. `lost` says for each of its sums whether it loses the step."""

    def __init__(self, rank: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._table, self._barrier = rank, size, table, barrier
        self.lost: Callable[[], bool] = lambda: False

    def sum(self, tensor: Tensor) -> Tensor:
        if self.lost():
            raise StepLost
        self._table[self.rank] = tensor.clone()
        self._barrier.wait()
        total = sum(self._table)  # in the order of the ranks: equal on all of them
        self._barrier.wait()
        return tensor.copy_(total)

    def commit(self) -> None:
        pass


def together(size: int, work: Callable[[FakeMembers], T]) -> list[T]:
    """`work` of every member, each in a thread → what they return, by rank."""
    table: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=60)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(FakeMembers(rank, size, table, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def config(method: str = "ga+csa", norm: str = "frozen", **more: Any) -> Config:
    return Config(
        method=method,  # type: ignore[arg-type]
        labelled=4,
        batch=2,
        accumulate=1,
        model=ModelConfig(backbone="tiny", width=16, num_classes=CLASSES, norm=norm),  # type: ignore[arg-type]
        discriminator=DiscriminatorConfig(width=4, hidden=8),
        optim=OptimConfig(lr=0.05, head_lr=1.0, d_lr=1e-3),
        runtime=RuntimeConfig(tune_allocator=False, kernels="reference"),
        ema=0.9,
        **more,
    ).resolved()


def images(step: int, part: range) -> StepBatch:
    """These images of a step's uneven batch."""

    def cut(s: Batch | None) -> Batch | None:
        labels = None if s is None or s.labels is None else s.labels[part.start : part.stop]
        return None if s is None else Batch(s.images[part.start : part.stop], labels)

    return StepBatch(*(cut(s) for s in uneven_batch(step, IMAGES)))


def alone(c: Config, steps: int) -> dict[str, Tensor]:
    engine = TrainStep(module(c), replace(c, batch=IMAGES), setup_runtime(c.runtime))
    for step in range(steps):
        engine.step([images(step, range(IMAGES))], adapt=True)
    return engine.module.state_dict()


_SEEDED = threading.Lock()  # torch's generator is shared by the threads


def module(c: Config) -> Any:
    with _SEEDED:
        return build(c, method_spec(c.method, c.labelled)).double()


class Global(Config):
    """The members divide five images, and each takes at most two at once."""

    @property
    def global_batch(self) -> int:
        return IMAGES


def divided(c: Config) -> Config:
    return Global(**{name: getattr(c, name) for name in c.__dataclass_fields__})


def member(c: Config, members: FakeMembers) -> ElasticStep:
    step = ElasticStep(module(c), divided(c), setup_runtime(c.runtime))
    step.members = members  # type: ignore[assignment]
    return step


def own(step: int, members: FakeMembers) -> list[StepBatch]:
    """A member's mini-batches of a step."""
    part = share(0, IMAGES, members.rank, members.size)
    return [images(step, piece) for piece in pieces(part, 2)]


@pytest.mark.parametrize(("method", "size"), [("ga+fcsa", 3), ("ga+csa", 2)])
def test_uneven_shares_train_as_one(method: str, size: int) -> None:
    """Weights, EMA and discriminators after three steps, in float64."""
    c = config(method)

    def work(members: FakeMembers) -> tuple[list[Any], dict[str, Tensor]]:
        engine = member(c, members)
        terms = [engine.take(own(step, members), 0, adapt=True) for step in range(3)]
        return terms, engine.module.state_dict()

    results = together(size, work)
    for name, value in alone(c, 3).items():
        for _, weights in results:
            torch.testing.assert_close(weights[name], value, rtol=1e-7, atol=1e-10)
            assert torch.equal(weights[name], results[0][1][name]), name
    assert all(terms == results[0][0] for terms, _ in results), "every member has the whole terms"


def test_running_statistics_are_the_means_by_images() -> None:
    c = config(norm="batch")

    def work(members: FakeMembers) -> tuple[list[Tensor], list[Tensor]]:
        engine = member(c, members)
        lone = ElasticStep(module(c), divided(c), setup_runtime(c.runtime))
        lone.members = FakeMembers(0, 1, [None], threading.Barrier(1))  # type: ignore[assignment]
        part = share(0, IMAGES, members.rank, members.size)
        lone.take(own(0, members), 0, adapt=True)  # scales its statistics by its part
        engine.take(own(0, members), 0, adapt=True)
        scaled = [s * IMAGES / len(part) for s in lone._statistics]
        return engine._statistics, [s * len(part) / IMAGES for s in scaled]

    results = together(2, work)
    for i, found in enumerate(results[0][0]):
        expected = results[0][1][i] + results[1][1][i]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(found, results[1][0][i])
    assert len(results[0][0]) >= 4, "the network's own and the target's"


def test_members_with_other_numbers_of_mini_batches_stay_equal() -> None:
    """Of five images one member takes two mini-batches, the other one: running averages follow."""
    c = config(norm="batch")

    def work(members: FakeMembers) -> dict[str, Tensor]:
        engine = member(c, members)
        for step in range(2):
            engine.take(own(step, members), 0, adapt=True)
        return engine.module.state_dict()

    one, other = together(2, work)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(("norm", "at"), [("frozen", 0), ("batch", 1)])
def test_a_lost_step_leaves_no_trace(norm: str, at: int) -> None:
    """Lost at the exchange of counts, or of gradients: the repeated step is that of no loss."""
    c = config(norm=norm)

    def work(members: FakeMembers) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        calm, engine = member(c, members), member(c, members)
        calm.take(own(0, members), 0, adapt=True)
        calls = iter(range(100))
        members.lost = lambda: next(calls) == at
        before = {name: value.clone() for name, value in engine.module.state_dict().items()}
        with pytest.raises(StepLost):
            engine.take(own(0, members), 0, adapt=True)
        for name, value in engine.module.state_dict().items():
            assert torch.equal(value, before[name]), name
        members.lost = lambda: False
        engine.take(own(0, members), 0, adapt=True)
        return calm.module.state_dict(), engine.module.state_dict()

    for calm, repeated in together(1, work):
        for name, value in calm.items():
            assert torch.equal(value, repeated[name]), name


def test_skipped_samples_are_counted_over_the_members() -> None:
    c = config()

    def work(members: FakeMembers) -> int:
        engine = member(c, members)
        engine.take(own(0, members), 1 + members.rank, adapt=True)
        return engine.skipped

    assert together(2, work) == [3, 3]
