"""The training step on the fake CUDA device: networks, batches and optimizers without data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from recorder import Recorder, launches_to, recording
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastass import kernels
from fastass.config.presets import preset
from fastass.config.schema import Config
from fastass.method.adaptation import MethodSpec, method_spec
from fastass.method.item_weights import feature_size
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.device import Runtime
from fastass.training.step import TrainStep, build

PRESET = "gta5_to_cityscapes_csa_500"
CUDA = torch.device("cuda", 0)
METHODS = ("oracle", "source_only", "joint", "ga", "ga+fcsa", "ga+csa")
NORMS = ("batch", "frozen")


def configured(
    method: str = "ga+csa",
    norm: str = "batch",
    *,
    batch: int = 1,
    backbone: str = "resnet101",
    heads: str = "single",
    **more: Any,
) -> Config:
    """The paper's sizes; `more` are other values of the configuration."""
    base = preset(PRESET)
    model = replace(base.model, norm=norm, backbone=backbone, heads=heads)  # type: ignore[arg-type]
    config = replace(base, method=method, model=model, batch=batch, **more)  # type: ignore[arg-type]
    return config.with_runtime(device="cuda").resolved()


def spec_of(config: Config) -> MethodSpec:
    return method_spec(config.method, labelled=max(config.labelled, 1))


def fake_batch(config: Config) -> StepBatch:
    """A step's images and labels, channels-last, on the fake device."""

    def images(size: tuple[int, int], labelled: bool) -> Batch:
        width, height = size
        pixels = torch.empty(config.batch, height, width, 3, device=CUDA).permute(0, 3, 1, 2)
        labels = torch.empty(config.batch, height, width, dtype=torch.uint8, device=CUDA)
        return Batch(pixels, labels if labelled else None)

    spec, source, target = spec_of(config), config.data.source_size, config.data.target_size
    return StepBatch(
        images(source, True) if spec.source else None,
        images(target, True) if spec.labelled else None,
        images(target, False) if spec.global_ else None,
    )


def _move(module: nn.Module) -> None:
    """Replace parameters and buffers by ones on the fake device, with the same strides."""

    def moved(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)

    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(
                        moved(parameter), requires_grad=parameter.requires_grad
                    )
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = moved(buffer)


@contextmanager
def fake_step(config: Config, amp: torch.dtype | None = torch.bfloat16) -> Iterator[TrainStep]:
    """The step of `config`, ready on the fake device; inside, new tensors have no data."""
    with torch.device("meta"):
        module = build(config, spec_of(config))
    for width, height in (config.data.source_size, config.data.target_size):
        feature_size(config.model, (height, width))  # kept: it runs a network without data
    kernels.use("auto")
    runtime = Runtime(CUDA, amp, "fake", "triton", "", "off", False)
    with FakeTensorMode(allow_non_fake_inputs=False):
        _move(module)
        # Everything is in place: `Module.to` can't exchange tensors that have no data.
        module.to = lambda *args, **kwargs: module  # type: ignore[method-assign]
        yield TrainStep(module, config, runtime)


def record_forward(config: Config, amp: torch.dtype | None = torch.bfloat16) -> Recorder:
    """The forward of every stream of a step."""
    with fake_step(config, amp) as step:
        step.module.train()
        batch = fake_batch(config)
        with recording() as recorder, step.runtime.autocast():
            step.module(batch, adapt=True)
    return recorder


def record_step(config: Config, amp: torch.dtype | None = torch.bfloat16) -> Recorder:
    """The second of two steps: in the first one optimizers and caches make their state."""
    with fake_step(config, amp) as step:
        batches = [fake_batch(config)] * config.accumulate
        with launches_to():
            step.step(batches, adapt=True)
        with recording() as recorder:
            for tensor in held(step, batches):
                recorder.hold(tensor)
            step.step(batches, adapt=True)
    return recorder


def held(step: TrainStep, batches: list[StepBatch]) -> Iterator[Tensor]:
    """What is in memory before a step: weights, optimizer states, images and labels."""
    yield from step.module.parameters()
    yield from step.module.buffers()
    for optimizer in step.optimizers.values():
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))
    for batch in batches:
        for stream in batch:
            if stream is not None:
                yield from (value for value in stream if isinstance(value, Tensor))
