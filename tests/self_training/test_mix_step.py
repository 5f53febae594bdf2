"""The step with --mix: the sequential procedure's gradients, and the same however it is run."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks
from sequential_mix import CLASSES, SOURCE, TARGET, middle_confidence, plain_mix, upsample
from torch import Tensor

from fastass.config.schema import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    LossConfig,
    MixingConfig,
    OptimConfig,
    RuntimeConfig,
)
from fastass.kernels.convolution.running_statistics import BatchStatistics
from fastass.method.adaptation import method_spec, objective
from fastass.models.config import ModelConfig
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.device import setup_runtime
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.step import TrainStep, build

METHODS = ("source_only", "joint", "ga", "ga+csa")


def config(method: str = "joint", norm: str = "frozen", **more: Any) -> Config:
    runtime = {"device": "cpu", "tune_allocator": False, **more.pop("runtime", {})}
    model = ModelConfig(
        backbone="tiny",
        width=16,
        num_classes=CLASSES,
        norm=norm,  # type: ignore[arg-type]
        **more.pop("model", {}),
    )
    return Config(
        method=method,  # type: ignore[arg-type]
        mix=True,
        labelled=4,
        steps=10,
        model=model,
        data=DataConfig(source_size=SOURCE[::-1], target_size=TARGET[::-1], normalize="imagenet"),
        discriminator=DiscriminatorConfig(width=4, hidden=8),
        optim=OptimConfig(lr=0.01, head_lr=1.0, d_lr=1e-3),
        runtime=RuntimeConfig(**runtime),
        **more,
    ).resolved()


def engine(c: Config, world: World = SINGLE_PROCESS, dtype: torch.dtype = torch.float32) -> Any:
    spec = method_spec(c.method, 4, c.mix)
    return TrainStep(build(c, spec).to(dtype), c, setup_runtime(c.runtime), world)


def streams(
    c: Config, seed: int = 0, images: int = 4, dtype: torch.dtype = torch.float32
) -> StepBatch:
    g, spec = torch.Generator().manual_seed(seed), method_spec(c.method, 4, c.mix)

    def stream(size: tuple[int, int], labelled: bool = True) -> Batch:
        x = torch.randn(images, 3, *size, generator=g, dtype=dtype)
        y = torch.randint(0, CLASSES, (images, *(s // 8 for s in size)), generator=g)
        y[torch.rand(y.shape, generator=g) < 0.1] = 255
        y = y.repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
        return Batch(x.contiguous(memory_format=torch.channels_last), y if labelled else None)

    return StepBatch(
        stream(SOURCE),
        stream(TARGET) if spec.labelled else None,
        stream(TARGET, labelled=False),
    )


def part(batch: StepBatch, start: int, end: int) -> StepBatch:
    def cut(s: Batch | None) -> Batch | None:
        if s is None:
            return None
        return Batch(s.images[start:end], None if s.labels is None else s.labels[start:end])

    return StepBatch(cut(batch.source), cut(batch.labelled), cut(batch.unlabelled))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_gradients_equal_the_sequential_procedure(method: str, norm: str) -> None:
    """In float64: the mixed images, and what L_mix adds to the gradient of every parameter."""
    c = config(
        method,
        norm,
        runtime={"kernels": "reference"},
        loss=LossConfig(mix=1.7, aux_seg=0.4),
        model={"heads": "multi"},
        mixing=MixingConfig(decay=0.5),
    )
    e = engine(c, dtype=torch.float64)
    for n in range(3):
        e.step([streams(c, n, dtype=torch.float64)], adapt=True)
    batch = streams(c, 9, dtype=torch.float64)
    e.module.train()
    e.self_training.config = replace(c.mixing, confidence=middle_confidence(e, batch))
    mixed = e.self_training.mixed([batch])[0]
    images, labels, weights = plain_mix(e, batch, update=3)
    # The product's colour matrices and blur kernels are rounded to float32.
    torch.testing.assert_close(mixed.images, images, rtol=1e-5, atol=1e-5)
    assert torch.equal(mixed.labels.long(), labels.long())
    assert mixed.confidence.unique().numel() > 1
    scale = torch.where(mixed.pasted, 1.0, mixed.confidence[:, None, None])
    torch.testing.assert_close(scale.double(), weights, rtol=1e-6, atol=0)

    def gradients() -> dict[str, Tensor]:
        found = {n: p.grad for n, p in e.module.named_parameters() if p.grad is not None}
        e.module.zero_grad(set_to_none=True)
        return found

    if not e.module.global_discriminators:
        batch = batch._replace(unlabelled=None)
    objective(e.module(batch), c.loss).backward()
    without = gradients()
    objective(e.module(batch._replace(mixed=mixed)), c.loss).backward()
    ours = gradients()
    main, aux = e.generator(mixed.images).levels
    for level, scores in ((1.0, main), (0.4, aux)):
        each = F.cross_entropy(upsample(scores), labels.long(), reduction="none", ignore_index=255)
        (1.7 * level * (scale.double() * each).mean()).backward(retain_graph=True)
    added = gradients()
    assert all(name.startswith("generator.") for name in added)
    assert len(added) == sum(p.requires_grad for p in e.generator.parameters())
    for name, value in ours.items():
        expected = without[name] + added.get(name, 0)
        bound = 1e-9 * float(expected.abs().max().clamp(min=1e-12))
        assert float((value - expected).abs().max()) <= bound, name


def test_the_teacher_follows_the_parameters_and_keeps_its_statistics() -> None:
    c = config("joint", "batch", mixing=MixingConfig(decay=0.3))
    e = engine(c)
    teacher = e.module.teacher
    truth = {n: p.clone() for n, p in e.generator.named_parameters()}
    buffers = {n: b.clone() for n, b in e.generator.named_buffers()}
    e.generator.load_state_dict(e.generator.state_dict())
    for n in range(4):
        e.step([streams(c, n)], adapt=True)
        d = min(0.3, (1 + n) / (10 + n))
        for name, value in e.generator.named_parameters():
            truth[name] = d * truth[name] + (1 - d) * value.detach()
            torch.testing.assert_close(teacher.get_parameter(name), truth[name], msg=name)
    for name, value in buffers.items():
        assert torch.equal(teacher.get_buffer(name), value), name
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_teacher_begins_as_the_generator_after_the_start() -> None:
    c = config("joint", mixing=MixingConfig(decay=0.0))
    e = engine(c)
    e.step([StepBatch(source=streams(c).source)], adapt=False)
    assert e.self_training.updates == 0
    name = "classifier.branches.0.weight"
    begun = e.generator.get_parameter(name).clone()
    assert not torch.equal(e.module.teacher.get_parameter(name), begun)
    e.self_training.mixed([streams(c)])
    assert torch.equal(e.module.teacher.get_parameter(name), begun)


def assert_close(one: TrainStep, other: TrainStep, rtol: float, atol: float) -> None:
    state = other.module.state_dict()
    for name, value in one.module.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_streamed_and_concurrent_are_fused(method: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        kinds = ("fused", "streamed", "concurrent")
        engines = [engine(config(method, "batch", backward=kind)) for kind in kinds]
        assert [e.backward.kind for e in engines] == list(kinds)
        for n in range(3):
            terms = [e.step([streams(e.config, n)], adapt=True) for e in engines]
            for other in terms[1:]:
                assert other.mix is not None
                torch.testing.assert_close(other.mix, terms[0].mix, rtol=1e-4, atol=1e-6)
        fused, streamed, concurrent = engines
        assert_close(concurrent, fused, 1e-3, 1e-5)
        parameters = dict(fused.module.named_parameters())
        for name, value in streamed.module.named_parameters():
            torch.testing.assert_close(value, parameters[name], rtol=1e-3, atol=1e-5, msg=name)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("method", ["joint", "ga+csa"])
def test_a_resumed_step_is_exact(method: str) -> None:
    c = config(method, "batch")
    whole, first, second = engine(c), engine(c), engine(c)
    for n in range(4):
        whole.step([streams(c, n)], adapt=True)
    for n in range(2):
        first.step([streams(c, n)], adapt=True)
    second.module.load_state_dict(first.module.state_dict())
    second.load_state(first.state())
    for n in range(2, 4):
        second.step([streams(c, n)], adapt=True)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value), name


def train(world: World, c: Config, images: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Three steps in float64 → the terms, summed over the ranks, and the weights."""
    e = engine(
        replace(c, distributed=replace(c.distributed, world=world.size)), world, torch.float64
    )
    each, terms = images // (world.size * c.accumulate), []
    for step in range(3):
        whole = streams(c, step, images, torch.float64)
        firsts = [(a * world.size + world.rank) * each for a in range(c.accumulate)]
        found = e.step([part(whole, first, first + each) for first in firsts], adapt=True)
        terms.append(world.sum(torch.stack([t for t in found if t is not None])))
    return terms, e.module.state_dict()


def on_ranks(world: World, c: Config, images: int) -> tuple[list[Any], dict[str, Any]]:
    torch.set_default_dtype(torch.float32)
    terms, state = train(world, c, images)
    return [t.tolist() for t in terms], {k: v.tolist() for k, v in state.items()}


@pytest.mark.parametrize("method", ["joint", "ga+csa"])
def test_ranks_and_accumulation_do_not_matter(method: str) -> None:
    """1 × 4 = 2 × 2 = 4 × 1 with a frozen norm, in float64."""
    c = config(method, runtime={"kernels": "reference"})
    terms, state = train(SINGLE_PROCESS, c, 4)
    for accumulate in (2, 4):
        other_terms, other = train(SINGLE_PROCESS, replace(c, accumulate=accumulate), 4)
        torch.testing.assert_close(other_terms, terms, rtol=1e-7, atol=1e-10)
        for name, value in state.items():
            torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-9, msg=name)
    for backward in ("fused", "streamed") if method == "joint" else ("fused",):
        c = replace(c, backward=backward)
        for found, weights in run_ranks(2, on_ranks, c, 4):
            for a, b in zip(found, terms, strict=True):
                torch.testing.assert_close(torch.tensor(a).double(), b, rtol=1e-6, atol=1e-9)
            for name, value in state.items():
                close = torch.tensor(weights[name], dtype=value.dtype)
                torch.testing.assert_close(close, value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    c = config("joint")
    e = engine(c)
    low = TrainStep(
        build(c, method_spec("joint", 4, True)),
        c,
        replace(setup_runtime(c.runtime), amp_dtype=dtype),
    )
    for n in range(2):
        terms = [each.step([streams(c, n)], adapt=True) for each in (e, low)]
        torch.testing.assert_close(terms[1].mix, terms[0].mix, rtol=2e-2, atol=1e-3)


class Counting:
    """A compiler's back end that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize(("backward", "graphs"), [("fused", 1), ("streamed", 3)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_the_compiled_step_is_one_graph(
    monkeypatch: pytest.MonkeyPatch, backward: str, graphs: int
) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    backend, compile = Counting(), torch.compile

    def counted(module: torch.nn.Module, *, mode: str, dynamic: bool) -> Any:
        return compile(module, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", counted)
    c = config("joint", backward=backward)
    eager, compiled = engine(c), engine(c.with_runtime(compile=True))
    for step in range(3):
        expected, terms = (e.step([streams(c, step)], adapt=True) for e in (eager, compiled))
        torch.testing.assert_close(terms.mix, expected.mix, rtol=1e-4, atol=1e-6)
        assert backend.graphs == graphs
    assert not counters["graph_break"], dict(counters["graph_break"])
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["source_only", "joint", "ga"])
def test_mixed_images_feed_the_statistics_of_all_streams_alone(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's are fed by target images; by mixed ones where there are no others."""
    c = config(method, "batch")
    e = engine(c)
    norm, feed = e.generator.backbone.bn1, e.module.feed
    all_streams, target = norm.running_mean, e.module.target_statistics.vectors(norm)[0]
    begun = all_streams.clone()
    seen: list[BatchStatistics] = []

    def remember(batch_statistics: Any) -> None:
        seen.extend(s for s in batch_statistics if s.norm is norm)
        feed(batch_statistics)

    monkeypatch.setattr(e.module, "feed", remember)
    e.step([streams(c)], adapt=True)
    others = {"source_only": [], "joint": ["labelled"], "ga": ["labelled", "unlabelled"]}[method]
    assert [s.stream for s in seen] == ["source", *others, "mixed"]
    for vector, names in (
        (all_streams, ["source", *others, "mixed"]),
        (target, others or ["mixed"]),
    ):
        expected = begun.clone()
        for s in seen:
            if s.stream in names:
                expected.lerp_(s.mean, norm.momentum)
        torch.testing.assert_close(vector, expected)
