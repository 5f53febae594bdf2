"""Where the time of each rank goes, and which rank is named as slow."""

import time
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import nn

from fastass.config.schema import Config, DataConfig, DiscriminatorConfig, RuntimeConfig
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.runtime.device import setup_runtime
from fastass.runtime.process_group import World
from fastass.training.memory.random_batch import random_batch
from fastass.training.meters import Meters
from fastass.training.ranks.times import ExchangeClock, RankTimes, Stragglers
from fastass.training.step import TrainStep, build


def times(own: list[float], steps: int = 10, step: float = 2.0) -> RankTimes:
    """`steps` steps of `step` seconds, `own` of them each rank's own, a tenth waiting for data."""
    return RankTimes(
        steps,
        tuple(step * steps for _ in own),
        tuple(o * steps / 10 for o in own),
        tuple((step - o) * steps for o in own),
    )


def test_the_record_of_all_ranks() -> None:
    assert times([1.0, 1.5]).record() == {
        "own_ms": [1000.0, 1500.0],
        "data_wait_ms": [100.0, 150.0],
        "exchange_ms": [1000.0, 500.0],
        "slowest": 1,
    }


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_a_rank_that_is_slow_for_50_steps_is_named_once(steps: int) -> None:
    stragglers, found = Stragglers(), []
    for step in range(steps, 101, steps):
        found += [(step, line) for line in stragglers.see(times([1.0, 1.0, 1.25, 1.0], steps))]
    assert found == [
        (
            50,
            "rank 2 is 25% slower than the others for 50 steps: 1250 ms per step, 125 of them "
            "wait for data",
        )
    ]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_less_than_a_fifth_is_not_named(size: int) -> None:
    stragglers = Stragglers()
    for _ in range(20):
        assert stragglers.see(times([1.19] + [1.0] * (size - 1))) == []


def test_a_rank_that_recovers_begins_anew() -> None:
    stragglers, slow, well = Stragglers(), times([1.0, 1.3]), times([1.0, 1.0])
    seen = [stragglers.see(each) for each in [slow] * 4 + [well] + [slow] * 5 + [well] + [slow] * 5]
    assert [i for i, lines in enumerate(seen) if lines] == [9, 15]


def test_the_clock_measures_from_the_last_gradient() -> None:
    parameter = nn.Parameter(torch.ones(1))
    clock = ExchangeClock(torch.device("cpu"), parameter)
    parameter.sum().backward()
    time.sleep(0.02)
    clock.end()
    clock.begin()
    time.sleep(0.01)
    clock.end()
    clock.end()  # no exchange began
    assert 0.03 <= clock.flush() < 0.3
    assert clock.flush() == 0


def slow_rank(world: World, slow: int) -> tuple[dict[str, Any], list[str]]:
    """Steps in which one rank sleeps before each: what the meters say on every rank."""
    config = Config(
        method="joint",
        labelled=2,
        model=ModelConfig(backbone="tiny", width=16, num_classes=5, norm="frozen"),
        data=DataConfig(source_size=(64, 32), target_size=(64, 32)),
        discriminator=DiscriminatorConfig(width=4, hidden=8),
        runtime=RuntimeConfig(tune_allocator=False),
    ).resolved()
    spec = method_spec(config.method, config.labelled)
    step = TrainStep(build(config, spec), config, setup_runtime(config.runtime), world)
    batch = random_batch(config, spec, step.runtime.device, channels_last=True)
    step.step([batch], adapt=True)  # the first one is slow everywhere
    assert step.exchange_clock is not None
    step.exchange_clock.flush()
    meters = Meters(world, step.exchange_clock)
    meters.start_clock()
    for number in range(4):
        if world.rank == slow:
            time.sleep(0.2)
        terms = step.step([batch], adapt=True)
        meters.add(number, terms, 2, 0.2 if world.rank == slow else 0.0)
    meters.flush()
    assert meters.rank_times is not None
    stragglers = Stragglers({slow: 46})
    return meters.rank_times.record(), stragglers.see(meters.rank_times)


def test_two_ranks_agree_on_the_slow_one() -> None:
    """Their steps are equally long, as each waits for the other; only one of them is slow."""
    results = run_ranks(2, slow_rank, 1)
    assert results[0] == results[1]
    record, lines = results[0]
    assert record["slowest"] == 1
    assert record["own_ms"][1] > 200 > record["data_wait_ms"][0]
    assert record["data_wait_ms"][1] == pytest.approx(200)
    assert record["exchange_ms"][0] > 100
    assert len(lines) == 1
    assert lines[0].startswith("rank 1 is ")
