"""Running statistics of the target's streams beside those of all streams."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fastass.config.schema import Config, DataConfig, DiscriminatorConfig, RuntimeConfig
from fastass.kernels.convolution.batch_norm import batch_norm
from fastass.kernels.convolution.running_statistics import collected, stream
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.domain_statistics import TargetStatistics, feed, running_norms
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.device import setup_runtime
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

CONFIG = Config(
    method="ga+csa",
    labelled=2,
    steps=10,
    batch=2,
    runtime=RuntimeConfig(device="cpu", tune_allocator=False),
    model=ModelConfig(backbone="tiny", num_classes=5),
    data=DataConfig(source_size=(96, 64), target_size=(80, 64)),
    discriminator=DiscriminatorConfig(width=4, hidden=16),
).resolved()
CPU = torch.device("cpu")


def engine(config: Config) -> TrainStep:
    spec = method_spec(config.method, config.labelled)
    return TrainStep(build(config, spec), config, setup_runtime(config.runtime))


def batch(config: Config, seed: int = 0) -> StepBatch:
    spec = method_spec(config.method, config.labelled)
    return random_batch(replace(config, seed=seed), spec, CPU, channels_last=True)


def by_hand(step: TrainStep, batches: list[StepBatch], names: tuple[str, ...]) -> dict[str, Any]:
    """Running statistics of a copy of the network that forwards the named streams, in order."""
    network = copy.deepcopy(step.generator).train()
    for one in batches:
        for name in names:
            stream_ = getattr(one, name)
            if stream_ is not None:
                with torch.no_grad():
                    network(stream_.images)
    return {
        f"{name}.{vector}": getattr(norm, vector)
        for name, norm in running_norms(network).items()
        for vector in ("running_mean", "running_var")
    }


def of_target(step: TrainStep) -> dict[str, torch.Tensor]:
    assert step.module.target_statistics is not None
    return step.module.target_statistics.state_dict()


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert theirs.keys() <= ours.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("norm", ["batch", "sync"])
@pytest.mark.parametrize(
    ("backward", "accumulate", "checkpoint"),
    [
        ("fused", 1, False),
        ("streamed", 1, False),
        ("concurrent", 1, False),
        ("fused", 2, False),
        ("streamed", 2, True),
        ("fused", 1, True),
    ],
)
def test_each_bank_has_its_streams_in_the_fused_order(
    norm: Any, backward: Any, accumulate: int, checkpoint: bool
) -> None:
    """Also with activation checkpointing, whose second forward feeds nothing."""
    model = replace(CONFIG.model, norm=norm, checkpoint_activations=checkpoint)
    config = replace(CONFIG, backward=backward, accumulate=accumulate, model=model)
    step = engine(config)
    batches = [batch(config, seed) for seed in range(accumulate)]
    everything = by_hand(step, batches, ("source", "labelled", "unlabelled"))
    target = by_hand(step, batches, ("labelled", "unlabelled"))
    step.step(batches, adapt=True)
    assert_close(step.generator.state_dict(), everything)
    assert_close(of_target(step), target)
    counter = step.generator.state_dict()["backbone.bn1.num_batches_tracked"]
    assert int(counter) == 3 * accumulate
    first = "backbone.bn1.running_mean"
    assert not torch.allclose(everything[first], target[first], atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_a_compiled_step_feeds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compile = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda module, *, mode, dynamic: compile(
            module, backend="eager", dynamic=dynamic, fullgraph=True
        ),
    )
    torch._dynamo.reset()
    eager, compiled = engine(CONFIG), engine(CONFIG.with_runtime(compile=True))
    for seed in range(2):
        for step in (eager, compiled):
            step.step([batch(CONFIG, seed)], adapt=True)
    assert_close(of_target(compiled), of_target(eager))
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["source_only", "oracle"])
def test_with_streams_of_one_domain_both_are_equal(method: Any) -> None:
    config = replace(CONFIG, method=method, ema=0.9)
    step = engine(config)
    for seed in range(2):
        step.step([batch(config, seed)], adapt=True)
    assert step.module.target_statistics is not None
    assert not step.module.target_statistics.differ()
    assert step.evaluated_target_statistics is step.module.average_target_statistics
    assert step.evaluated_target_statistics is not None
    assert not step.evaluated_target_statistics.differ()


def test_a_choice_of_streams_and_a_forward_that_feeds_nothing() -> None:
    step = engine(CONFIG)
    one = batch(CONFIG)
    step.module.target_streams = ("labelled",)
    target = by_hand(step, [one], ("labelled",))
    before = copy.deepcopy(step.generator.state_dict())
    step.module.train()
    with collected(), torch.no_grad():
        assert one.source is not None
        step.generator(one.source.images)
    assert all(torch.equal(v, before[k]) for k, v in step.generator.state_dict().items())
    step.step([one], adapt=True)
    assert_close(of_target(step), target)


def test_the_average_has_its_own() -> None:
    step = engine(replace(CONFIG, ema=0.5))
    step.step([batch(CONFIG)], adapt=True)
    average = step.module.average_target_statistics
    assert average is not None
    d = 0.1  # of the first update
    for name, value in average.state_dict().items():
        start = torch.ones_like(value) if name.endswith("var") else torch.zeros_like(value)
        expected = d * start + (1 - d) * of_target(step)[name]
        torch.testing.assert_close(value, expected, msg=name)


def test_exchanged_statistics_normalise_and_come_back() -> None:
    torch.manual_seed(0)
    network = build_deeplab(CONFIG.model).eval()
    target = TargetStatistics(network)
    assert not target.differ()
    for value in target.buffers():
        value.add_(0.5)
    assert target.differ()
    images = torch.randn(1, 3, 32, 32)
    own = network(images).scores
    with target.exchanged():
        other = network(images).scores
    assert not torch.allclose(own, other)
    assert torch.equal(network(images).scores, own)
    names = {name for name in network.state_dict() if name.endswith(("_mean", "_var"))}
    assert set(target.state_dict()) == names


def test_a_frozen_network_has_no_second_statistics() -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, norm="frozen"))
    step = engine(config)
    step.step([batch(config)], adapt=True)
    assert step.module.target_statistics is None
    assert not any("target_statistics" in name for name in step.module.state_dict())


def test_one_norm_twice_in_a_stream_is_fed_twice() -> None:
    torch.manual_seed(0)
    norm, other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    maps = [torch.randn(2, 4, 5, 5) + i for i in range(2)]
    with collected() as seen, stream("labelled"):
        for x in maps:
            batch_norm(x, norm)
    feed(seen, None)
    for x in maps:
        other(x)
    assert_close(norm.state_dict(), other.state_dict())
