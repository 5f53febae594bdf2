"""Switches of the step: equal results, whatever they change about speed or memory."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_host.waits import waiting_is_an_error
from safetensors.torch import save_file
from torch import Tensor

from fastass.bench.step.memory import SavedTensors
from fastass.checkpoint.files import load_generator
from fastass.checkpoint.pointers import MODEL
from fastass.config.schema import Config, DiscriminatorConfig, OptimConfig, RuntimeConfig
from fastass.errors import UserError
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.device import describe_tf32, set_tf32, setup_runtime
from fastass.training.step import TrainStep, build

CLASSES = 5
RUNTIME = {field.name for field in fields(RuntimeConfig)}


def config(**values: Any) -> Config:
    """Of `values` those of the runtime by their own names."""
    runtime = {k: values.pop(k) for k in [*values] if k in RUNTIME}
    return Config(
        method="ga+csa",
        steps=10,
        discriminator=DiscriminatorConfig(width=4, hidden=16),
        optim=OptimConfig(lr=1e-3, d_lr=1e-3),
        runtime=RuntimeConfig(**{"tune_allocator": False, "device": "cpu", **runtime}),
        **{"model": ModelConfig(backbone="tiny", num_classes=CLASSES, norm="frozen"), **values},
    ).resolved()


def batch(device: str = "cpu", seed: int = 0) -> StepBatch:
    g = torch.Generator().manual_seed(seed)

    def images(height: int, width: int, labelled: bool = True) -> Batch:
        pixels = torch.randn(1, 3, height, width, generator=g)
        labels = torch.randint(0, CLASSES, (1, height, width), generator=g).to(torch.uint8)
        return Batch(
            pixels.to(device, memory_format=torch.channels_last),
            labels.to(device) if labelled else None,
        )

    return StepBatch(images(64, 96), images(64, 80), images(64, 80, labelled=False))


def engine(c: Config) -> TrainStep:
    return TrainStep(build(c, method_spec(c.method, 4)), c, setup_runtime(c.runtime))


class Counting:
    """A compiler's back end that runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize(("backward", "graphs"), [("fused", 1), ("streamed", 3)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_the_compiled_step_is_one_graph_and_compiles_once(
    monkeypatch: pytest.MonkeyPatch, backward: str, graphs: int
) -> None:
    """No graph break and, after the first step, no recompilation; the losses are eager's."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    backend = Counting()
    compile = torch.compile

    def counted(module: torch.nn.Module, *, mode: str, dynamic: bool) -> Any:
        assert mode == "default"
        return compile(module, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", counted)
    c = config(backward=backward)
    eager, compiled = engine(c), engine(c.with_runtime(compile=True))
    for step in range(4):
        streams = batch(seed=step)
        expected, terms = (e.step([streams], adapt=True) for e in (eager, compiled))
        for a, b in zip(terms, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert backend.graphs == graphs
    assert not counters["graph_break"], dict(counters["graph_break"])
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_computes_the_same() -> None:
    torch._dynamo.reset()
    eager, compiled = engine(config()), engine(config(compile=True))
    for step in range(2):
        for a, b in zip(*(e.step([batch(seed=step)], adapt=True) for e in (compiled, eager))):  # noqa: B905
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_streamed_is_fused_in_mixed_precision(dtype: torch.dtype) -> None:
    """The streams' forwards are the same numbers; gradients are summed in another order."""
    found = []
    for backward in ("fused", "streamed"):
        c = config(backward=backward)
        e = TrainStep(
            build(c, method_spec(c.method, 4)),
            c,
            replace(setup_runtime(c.runtime), amp_dtype=dtype),
        )
        before = {n: t.clone() for n, t in e.module.state_dict().items()}
        for accumulated in (1, 2):
            terms = e.step([batch(seed=s) for s in range(accumulated)], adapt=True)
        assert e.scaler.is_enabled() == (dtype == torch.float16)
        found.append((terms, before, e.module.state_dict()))
    (terms, before, fused), (terms_streamed, _, streamed) = found
    for a, b in zip(terms, terms_streamed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
    moved = [n for n in fused if not torch.equal(fused[n], before[n])]
    assert len(moved) > 20
    for name in moved:
        step = float((fused[name] - before[name]).norm())
        assert float((streamed[name] - fused[name]).norm()) <= 0.05 * step, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("backward", ["fused", "streamed"])
def test_a_step_never_waits_for_the_gpu(amp: bool, backward: str) -> None:
    c = config(device="cuda", amp=amp, backward=backward)
    e = engine(c)
    streams = batch("cuda")
    for _ in range(2):
        e.step([streams], adapt=True)
    with waiting_is_an_error():
        e.step([streams], adapt=True)


@pytest.mark.parametrize(
    ("backbone", "norm"), [("tiny", "batch"), ("tiny", "frozen"), ("vgg16", "frozen")]
)
def test_checkpointed_activations_give_the_same_gradients(backbone: str, norm: str) -> None:
    """In float64; the running statistics too. And fewer activations are kept."""
    model = ModelConfig(backbone=backbone, norm=norm, num_classes=CLASSES)  # type: ignore[arg-type]
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        network = build_deeplab(replace(model, checkpoint_activations=checkpointed)).double()
        x = torch.randn(1, 3, 48, 64, dtype=torch.float64)
        with SavedTensors(network.parameters()) as saved:
            loss = network(x).scores.square().sum()
            kept = saved.alive
            loss.backward()
        grads = {n: p.grad for n, p in network.named_parameters()}
        found.append((kept, grads, network.state_dict()))
    (kept, grads, state), (kept_less, grads_again, state_again) = found
    assert kept_less < 0.75 * kept  # the stem and the heads keep theirs
    for name, grad in grads.items():
        torch.testing.assert_close(grads_again[name], grad, rtol=1e-9, atol=1e-12)
    for name, value in state.items():
        torch.testing.assert_close(state_again[name], value, rtol=1e-12, atol=0, msg=name)


RESNET = ModelConfig(backbone="resnet50", norm="frozen", num_classes=CLASSES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_sums_computed_again_give_the_same_gradients(dtype: torch.dtype) -> None:
    """Bit for bit, in float64 and under autocast: the maps are the forward's. Fewer are kept."""
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        network = build_deeplab(replace(RESNET, recompute_sums=again))
        x = torch.randn(1, 3, 64, 96)
        if dtype == torch.float64:
            network, x = network.double(), x.double()
        with SavedTensors(network.parameters()) as saved:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = network(x).scores.square().sum()
            kept = saved.alive
            loss.backward()
        found.append((kept, {n: p.grad for n, p in network.named_parameters()}))
    (kept, grads), (kept_less, grads_again) = found
    assert kept_less < 0.75 * kept
    assert grads
    assert all(g is not None and g.any() for g in grads.values())
    for name, grad in grads.items():
        torch.testing.assert_close(grads_again[name], grad, rtol=0, atol=0, msg=name)


def test_dropped_sums_refuse_a_second_backward() -> None:
    network = build_deeplab(replace(RESNET, recompute_sums=True))
    loss = network(torch.randn(1, 3, 64, 64)).scores.sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="recompute_sums"):
        loss.backward()


def test_sums_are_computed_again_with_a_streamed_backward_alone() -> None:
    lean = Config(backward="streamed", model=RESNET)
    assert lean.resolved().model.recompute_sums is True
    assert replace(lean, backward="fused").resolved().model.recompute_sums is False
    assert lean.with_runtime(compile=True).resolved().model.recompute_sums is False
    batch_norm = replace(RESNET, norm="batch")
    assert replace(lean, model=batch_norm).resolved().model.recompute_sums is False
    kept = replace(lean, model=replace(RESNET, recompute_sums=False))
    assert kept.resolved().model.recompute_sums is False
    with pytest.raises(UserError, match=r"recompute_sums.*norm frozen, not tiny"):
        ModelConfig(backbone="tiny", norm="frozen", recompute_sums=True)
    with pytest.raises(UserError, match="one of the two"):
        replace(RESNET, recompute_sums=True, checkpoint_activations=True)


def test_a_streamed_backward_keeps_its_gradients_in_place() -> None:
    """And each step begins with none: the second step's are its own."""
    e, other = engine(config(backward="streamed")), engine(config())
    weight = e.generator.classifier.branches[0].get_parameter("weight")
    e.step([batch(seed=0)], adapt=True)
    assert weight.grad is not None
    place = weight.grad.data_ptr()
    e.step([batch(seed=1)], adapt=True)
    assert weight.grad.data_ptr() == place
    assert not weight.grad.any()
    for seed in (0, 1):
        other.step([batch(seed=seed)], adapt=True)
    assert other.generator.classifier.branches[0].weight.grad is None
    for name, value in other.module.state_dict().items():
        torch.testing.assert_close(e.module.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_the_running_average_follows_the_weights() -> None:
    e = engine(config(ema=0.5))
    average, truth = e.evaluated, None
    assert average is not e.generator
    name = "classifier.branches.0.weight"
    truth = average.state_dict()[name].clone()
    for n in range(3):
        e.step([batch(seed=n)], adapt=True)
        d = min(0.5, (1 + n) / (10 + n))
        truth = d * truth + (1 - d) * e.generator.state_dict()[name]
        torch.testing.assert_close(average.state_dict()[name], truth)
    assert not torch.equal(truth, e.generator.state_dict()[name])
    assert not any(p.requires_grad for p in average.parameters())
    assert all(n.startswith("average.") for n in e.module.state_dict() if "average" in n)


def test_a_resumed_average_is_exact() -> None:
    c = config(ema=0.9)
    whole = engine(c)
    for n in range(4):
        whole.step([batch(seed=n)], adapt=True)
    first = engine(c)
    for n in range(2):
        first.step([batch(seed=n)], adapt=True)
    second = engine(c)
    second.module.load_state_dict(first.module.state_dict())
    second.load_state(first.state())
    for n in range(2, 4):
        second.step([batch(seed=n)], adapt=True)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value), name


def test_predictions_load_the_running_average(tmp_path: Path) -> None:
    e = engine(config(ema=0.9))
    e.step([batch()], adapt=True)
    weights = {k: v.contiguous() for k, v in e.module.state_dict().items()}
    save_file(weights, tmp_path / MODEL)
    loaded = build_deeplab(e.config.model)
    load_generator(loaded, tmp_path)
    for name, value in e.evaluated.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_tf32_is_set_and_told() -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        assert describe_tf32(None, torch.device("cuda")) == "; tf32 convolutions"
        for wanted, told in ((True, "on"), (False, "off")):
            assert describe_tf32(wanted, torch.device("cuda")) == f"; tf32 {told}"
            set_tf32(wanted)
            assert (products.allow_tf32, convolutions.allow_tf32) == (wanted, wanted)
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
    line = setup_runtime(config(tf32=True).runtime).line
    assert "tf32 exists on CUDA only, kept off" in line
    assert "tf32" not in setup_runtime(config().runtime).line
    assert (products.allow_tf32, convolutions.allow_tf32) == before
