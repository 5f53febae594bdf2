"""The forward of every method and norm, and whole steps, on the fake CUDA device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from fake_step import (
    CUDA,
    METHODS,
    NORMS,
    configured,
    fake_batch,
    fake_step,
    record_forward,
    record_step,
)
from recorder import Recorder, launches_to, recording
from torch.utils.flop_counter import FlopCounterMode
from tracing import traced

from fastass import kernels
from fastass.bench.model import trace
from fastass.bench.model.count import costs
from fastass.bench.model.flops import of_operators
from fastass.method.terms import LossTerms
from fastass.training.graphed_step import EAGER_STEPS, GraphedStep

LOSSES = {"upsample_cross_entropy": "L_seg", "pixel_discriminator_loss": "D_s", "class_mean": "D_s"}


def without_fault(recorder: Recorder) -> set[str]:
    """The project's operators that ran; fails for what would be wrong on a GPU."""
    assert not recorder.faults, "\n".join(sorted(set(recorder.faults)))
    names = {op.name.split(".")[0] for op in recorder.ops}
    assert "aten::convolution" in names
    return {name.partition("::")[2] for name in names if name.startswith("fastass::")}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_forward(method: str, norm: str) -> None:
    """No transfer, no waiting, no shape that depends on values, one device, NHWC everywhere."""
    ran = without_fault(record_forward(configured(method, norm, backbone="resnet50")))
    assert "upsample_cross_entropy" in ran
    assert ("pixel_discriminator_loss" in ran) == (method == "ga+csa")
    assert ("class_mean" in ran) == (method == "ga+fcsa")
    assert ("upsample_softmax" in ran) == method.startswith("ga")


@pytest.mark.parametrize(
    "values",
    [
        {"heads": "multi", "method": "ga", "backbone": "resnet18"},
        {"backbone": "vgg16"},
        {"backbone": "resnet18", "norm": "frozen", "backward": "streamed"},
        {"backbone": "resnet18", "ema": 0.999},
        {"backbone": "resnet18", "accumulate": 2},
        {"backbone": "resnet18", "amp": None},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_step_of_other_networks_and_switches(values: dict) -> None:
    """Forward, backward and optimizers."""
    values = dict(values)
    options = {"amp": values.pop("amp")} if "amp" in values else {}
    without_fault(record_step(configured(**values), **options))


@pytest.mark.parametrize(
    ("norm", "checkpointing"),
    [
        ("frozen", "off"),
        ("frozen", "blocks"),
        ("frozen", "outputs"),
        ("batch", "off"),
        ("batch", "blocks"),
    ],
)
def test_step_with_fused_convolutions(norm: str, checkpointing: str) -> None:
    """Also with activations that are computed again. One kernel folds all frozen weights."""
    config = configured(backbone="resnet50", norm=norm)
    model = replace(
        config.model,
        checkpoint_activations=checkpointing == "blocks",
        recompute_sums=checkpointing == "outputs",
    )
    kernels.use_fused("on")
    kernels.use_fused_batch_norm(True)
    recorder = record_step(replace(config, model=model))
    without_fault(recorder)
    names = [op.name.removeprefix("triton:convolution.fused.") for op in recorder.ops]
    # All weights, and all their gradients in each of the two backwards.
    assert names.count("fold_gpu._kernel") == 3
    assert names.count("pointwise_gpu._kernel") >= 30
    moments = names.count("triton:convolution.norm.pointwise_gpu._kernel")
    assert bool(moments) == (norm == "batch")
    fused = sum(name.startswith("aten::cudnn_convolution_relu") for name in names)
    assert bool(fused) == (norm == "frozen")
    gates = [op for op in recorder.ops if op.name.startswith("aten::threshold_backward")]
    # Of the last output, and of the stem with a frozen norm: between blocks there is none, unless
    # they are computed again one by one.
    assert len(gates) == (4 if norm == "frozen" else 2) or checkpointing == "outputs"
    applied = [n for n in names if n.endswith("norm.gpu.apply_kernel")]
    assert bool(applied) == (norm == "batch")
    assert not any("batch_norm" in name for name in names)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_have_the_strides_of_their_parameters(
    norm: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DistributedDataParallel copies those that have not, and fused optimizers refuse them."""
    kernels.use_fused("on")
    kernels.use_fused_batch_norm(True)
    if not together:
        monkeypatch.setattr(kernels, "gradients_together", lambda wanted: nullcontext())
    config = configured(backbone="resnet50", norm=norm)
    wrong: list[str] = []
    with fake_step(config) as step:

        def check(terms: LossTerms) -> LossTerms:
            for name, parameter in step.module.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None
                    wrong.extend([name] if parameter.grad.stride() != parameter.stride() else [])
            return terms

        monkeypatch.setattr(step, "_agreed", check)
        with launches_to():
            step.step([fake_batch(config)], adapt=True)
    assert not wrong


@pytest.fixture(autouse=True)
def not_fused() -> Iterator[None]:
    yield
    kernels.use_fused("off")
    kernels.use_fused_batch_norm(False)


class Recording:
    """Takes a CUDA graph's place: a recorder of what is recorded; a replay runs nothing."""

    def __init__(self, device: torch.device) -> None:
        self.recorder, self.replays = Recorder(), 0

    def warming_up(self) -> AbstractContextManager[None]:
        return launches_to()

    @contextmanager
    def recording(self) -> Iterator[None]:
        with launches_to(self.recorder), self.recorder:
            yield

    def replay(self) -> None:
        self.replays += 1


def launched(recorder: Recorder) -> list[str]:
    """Operators that compute, without the overload that reads a learning rate from the GPU."""
    return [op.name.removesuffix(".tensor_lr") for op in recorder.ops if op.launches]


@pytest.mark.parametrize(
    "values",
    [
        {"norm": "frozen"},
        {"norm": "batch", "backward": "streamed"},
        {"method": "ga+fcsa", "accumulate": 2},
        {"method": "oracle", "norm": "frozen", "ema": 0.999},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_a_cuda_graph_holds_the_eager_step(values: dict) -> None:
    """The same operators, none of which waits or comes from the CPU; few are left beside it."""
    config = configured(backbone="resnet18", **values)
    eager = launched(record_step(config))
    with fake_step(config) as step:
        graph = step.graph = GraphedStep(step.update, step.optimizers, CUDA, Recording)
        batches = [fake_batch(config)] * config.accumulate
        for _ in range(EAGER_STEPS + 1):
            step.step(batches, adapt=True)
        assert isinstance(graph._graph, Recording)
        recorded = graph._graph.recorder
        without_fault(recorded)
        with recording() as beside:
            terms = step.step(batches, adapt=True)
        assert all(t is None or t.device == CUDA for t in terms)
    assert graph._graph.replays == 2
    if config.ema:  # one kernel per vector reads the average's weight
        eager.remove("aten::_foreach_lerp_.Scalar")
        assert "aten::_foreach_lerp_.List" in launched(recorded)
        recorded.ops = [op for op in recorded.ops if op.name != "aten::_foreach_lerp_.List"]
    assert launched(recorded) == eager
    assert len(eager) > 120
    without = [op.name for op in beside.ops if op.launches]
    assert not beside.faults
    assert set(without) == {"aten::copy_", "aten::fill_.Scalar", "aten::stack"}, set(without)
    assert len(without) <= 5 * config.accumulate + 6


def test_flops_are_those_of_the_trace() -> None:
    """PyTorch's counter, as the benchmarks use it, and the model's own rules."""
    config = configured(backbone="resnet18")
    counter = FlopCounterMode(display=False, custom_mapping=of_operators())
    with fake_step(config) as step, launches_to(), counter:
        step.step([fake_batch(config)], adapt=True)
    modelled = sum(cost.flops for cost in costs(record_step(config).ops))
    assert counter.get_total_flops() == modelled
    assert {"fastass.pixel_discriminator_loss", "fastass.pixel_discriminator_loss_backward"} <= {
        str(operator) for operator in counter.get_flop_counts()["Global"]
    }


@pytest.mark.parametrize("mode", ["eager", "fused"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_kept_trace_is_what_the_step_runs(norm: str, mode: str) -> None:
    kept, made = trace.read("ga+csa", norm, mode), traced("ga+csa", norm, mode)
    assert made.rows == kept.rows, trace.REMEDY
    assert made.peak == pytest.approx(kept.peak, rel=0.02)
