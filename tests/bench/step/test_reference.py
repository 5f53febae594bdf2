"""The reference path of the benchmarks computes what the engine does: the comparison is fair."""

from collections.abc import Iterator

import pytest
import torch

from fastass import kernels
from fastass.bench.step.reference import ReferencePath
from fastass.config.schema import (
    Config,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
    RuntimeConfig,
)
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.device import setup_runtime
from fastass.training.optimizers.build import decay, set_rates
from fastass.training.step import TrainStep, build

CLASSES, STEPS = 5, 3
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def reference_kernels() -> Iterator[None]:
    before = kernels.choice()
    kernels.use("reference")
    yield
    kernels.use(before)


def batch(seed: int) -> StepBatch:
    g = torch.Generator().manual_seed(seed)

    def images(height: int, width: int, labelled: bool = True) -> Batch:
        pixels = torch.randn(2, 3, height, width, generator=g, dtype=torch.float64)
        labels = torch.randint(0, CLASSES, (2, height, width), generator=g)
        labels[:, :8] = 255
        pixels = pixels.to(memory_format=torch.channels_last)
        return Batch(pixels, labels.to(torch.uint8) if labelled else None)

    return StepBatch(images(70, 90), images(64, 80), images(64, 80, labelled=False))


@pytest.mark.parametrize(
    ("method", "backbone", "heads", "backward", "norm"),
    [
        ("ga", "tiny", "multi", "fused", "batch"),
        ("ga", "tiny", "multi", "streamed", "batch"),
        ("ga+fcsa", "tiny", "single", "fused", "batch"),
        ("ga+fcsa", "tiny", "single", "streamed", "frozen"),
        ("ga+csa", "tiny", "single", "fused", "batch"),
        ("ga+csa", "tiny", "single", "streamed", "frozen"),
        ("ga+csa", "resnet50", "single", "streamed", "frozen"),
        ("ga", "tiny", "multi", "concurrent", "batch"),
        ("ga+fcsa", "tiny", "single", "concurrent", "batch"),
        ("ga+csa", "tiny", "single", "concurrent", "frozen"),
        ("ga+fcsa", "vgg16", "single", "fused", "batch"),
    ],
)
def test_losses_and_weights_of_some_steps(
    method: str, backbone: str, heads: str, backward: str, norm: str
) -> None:
    config = Config(
        method=method,  # type: ignore[arg-type]
        steps=STEPS + 2,
        backward=backward,  # type: ignore[arg-type]
        model=ModelConfig(backbone=backbone, heads=heads, norm=norm, num_classes=CLASSES),  # type: ignore[arg-type]
        discriminator=DiscriminatorConfig(width=4, hidden=16),
        optim=OptimConfig(lr=1e-3, d_lr=1e-3),
    ).resolved()
    assert_same_steps(config, {"tiny": STEPS, "resnet50": 2, "vgg16": 1}[backbone])


@pytest.mark.parametrize("push", ["target", "both"])
@pytest.mark.parametrize("method", ["ga+fcsa", "ga+csa"])
def test_adaptsegnets_direction_and_the_classifiers_grid(method: str, push: str) -> None:
    config = Config(
        method=method,  # type: ignore[arg-type]
        steps=STEPS + 2,
        model=ModelConfig(backbone="tiny", heads="multi", num_classes=CLASSES),
        loss=LossConfig(push=push, label_grid="aligned", gadv=0.1),  # type: ignore[arg-type]
        discriminator=DiscriminatorConfig(width=4, hidden=16),
        optim=OptimConfig(lr=1e-3, d_lr=1e-3),
    ).resolved()
    assert_same_steps(config, STEPS)


def assert_same_steps(config: Config, steps: int) -> None:
    """Losses of `steps` steps and the weights after them, of the engine and the reference path."""
    module = build(config, method_spec(config.method, labelled=4)).double()
    reference = ReferencePath(module, config, CPU)
    runtime = RuntimeConfig(device="cpu", kernels="reference", tune_allocator=False)
    engine = TrainStep(module, config, setup_runtime(runtime))
    start = {name: value.clone() for name, value in module.state_dict().items()}
    for step in range(steps):
        streams = batch(step)
        factor = decay(step, config.optim, start_steps=config.start_steps, steps=config.steps)
        set_rates(engine.optimizers.values(), factor)
        ours, theirs = engine.step([streams], adapt=True), reference.step(streams, step)
        for name, term in ours._asdict().items():
            expected = getattr(theirs, name)
            assert (term is None) == (expected is None), name
            if term is not None:
                torch.testing.assert_close(term, expected, rtol=1e-9, atol=0, msg=name)
    weights = reference.networks.state_dict()
    for name, value in engine.module.state_dict().items():
        if value.is_floating_point() and not name.startswith("target_statistics."):
            torch.testing.assert_close(value, weights[name], rtol=1e-7, atol=1e-9, msg=name)
    moved = sum(
        not torch.equal(start[name], value) for name, value in weights.items() if name in start
    )
    assert moved > 10
