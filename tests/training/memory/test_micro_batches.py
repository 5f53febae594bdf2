"""Out of memory in a step: it goes on in pieces with equal gradients, or says what would fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from ranks import CLASSES, uneven_batch
from torch import Tensor

from fastass.cli.main import main
from fastass.config.schema import Config, DiscriminatorConfig, OptimConfig, RuntimeConfig
from fastass.method.adaptation import Adaptation, method_spec
from fastass.models.config import ModelConfig
from fastass.models.deeplab import DeepLab
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.device import setup_runtime
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.memory.micro_batches import MicroBatches, cut
from fastass.training.step import TrainStep, build

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …"


def config(**values: Any) -> Config:
    return Config(
        **{
            "method": "ga+csa",
            "labelled": 4,
            "model": ModelConfig(backbone="tiny", num_classes=CLASSES, norm="frozen"),
            "discriminator": DiscriminatorConfig(width=4, hidden=8),
            "optim": OptimConfig(lr=0.05, head_lr=1.0, d_lr=1e-3),
            "runtime": RuntimeConfig(tune_allocator=False, kernels="reference", device="cpu"),
            **values,
        }
    ).resolved()


def engine(c: Config) -> TrainStep:
    spec = method_spec(c.method, c.labelled, c.mix)
    return TrainStep(build(c, spec).double(), c, setup_runtime(c.runtime))


class Memory:
    """A GPU that holds `images` per stream: a larger batch fails in its `at`-th forward of G or in
    the backward of that forward, after drawing random numbers."""

    def __init__(self, images: int, at: int = 1, backward: bool = False) -> None:
        self.images, self.at, self.backward = images, at, backward
        self.errors = self.calls = 0

    def attach(self, step: TrainStep) -> None:
        step.generator.register_forward_hook(self.hook)

    def hook(self, module: Any, inputs: tuple[Tensor], output: Any) -> None:
        self.calls += 1
        if len(inputs[0]) <= self.images or self.calls % self.at:
            return
        if not self.backward:
            self.fail()
        if output.scores.requires_grad:
            output.scores.register_hook(self.fail)

    def fail(self, *_: object) -> None:
        torch.rand(3)
        self.errors += 1
        raise torch.OutOfMemoryError(MESSAGE)


def trained(c: Config, batches: list[StepBatch], memory: Memory | None) -> dict[str, Any]:
    """Three steps → weights, terms of the last, state of the random numbers, lines, pieces."""
    torch.manual_seed(7)
    step = engine(c)
    lines: list[str] = []
    step.micro_batches.note = lines.append
    if memory is not None:
        memory.attach(step)
    for i in range(3):
        streams = batches if i > 0 else [StepBatch(source=b.source) for b in batches]
        terms = step.step(streams, adapt=i > 0)
    return {
        "weights": {k: v.clone() for k, v in step.module.state_dict().items()},
        "terms": terms,
        "random": torch.get_rng_state(),
        "lines": lines,
        "pieces": step.micro_batches.pieces,
    }


@pytest.mark.parametrize(
    ("values", "images", "memory", "pieces"),
    [
        ({}, 4, Memory(2), 2),
        ({}, 4, Memory(1), 4),
        ({}, 5, Memory(2), 4),
        ({}, 3, Memory(2, backward=True), 2),
        ({"backward": "streamed"}, 4, Memory(2, at=3), 2),
        ({"backward": "streamed"}, 4, Memory(2, at=2, backward=True), 2),
        ({"method": "ga+fcsa"}, 4, Memory(1, at=2, backward=True), 4),
        ({"mix": True}, 4, Memory(2), 2),
        ({"accumulate": 2}, 2, Memory(1), 2),
    ],
)
def test_the_run_goes_on_as_if_nothing_was_wrong(
    values: dict[str, Any], images: int, memory: Memory, pieces: int
) -> None:
    """Weights and terms of three steps in float64, and the random numbers to the bit."""
    c = config(**values)
    batches = [uneven_batch(seed, images) for seed in range(c.accumulate)]
    whole, found = trained(c, batches, None), trained(c, batches, memory)
    assert memory.errors >= 1
    assert found["pieces"] == pieces
    for name, value in whole["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-8, atol=1e-11, msg=name)
    for ours, theirs in zip(found["terms"], whole["terms"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert torch.equal(found["random"], whole["random"])
    assert whole["lines"] == []
    halvings = pieces.bit_length() - 1
    assert len(found["lines"]) == memory.errors == halvings, "once per cut, not per step"
    assert f"cut into {pieces} micro-batches, with equal gradients" in found["lines"][-1]


def test_one_image_that_does_not_fit_ends_the_run() -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trained(config(), [uneven_batch(0, 2)], Memory(0))
    assert caught.value.__notes__ == ["one image per stream does not fit"]


def refused(c: Config, world: World = SINGLE_PROCESS, *, concurrent: bool = False) -> str:
    """The note of the error of a batch of four."""
    micro = MicroBatches(c, build(c, method_spec(c.method, 4)), world, concurrent=concurrent)
    tries = []

    def work(pieces: Any) -> None:
        tries.append(len(pieces))
        raise torch.OutOfMemoryError(MESSAGE)

    with pytest.raises(torch.OutOfMemoryError) as caught:
        micro.run(work, [uneven_batch(0, 4)])
    assert tries == [1]
    (note,) = caught.value.__notes__
    return str(note)


@pytest.mark.parametrize("norm", ["batch", "sync"])
def test_gradients_that_depend_on_the_cut_end_the_run(norm: Any) -> None:
    c = config(model=ModelConfig(backbone="tiny", num_classes=CLASSES, norm=norm))
    assert refused(c) == (
        f"the batch is not cut, because gradients with norm {norm} depend on the cut; try --batch 2"
    )


def test_several_ranks_and_graphs_end_the_run() -> None:
    c = config(accumulate=3)
    note = refused(c, World(0, 2, grouped=True))
    assert note.startswith("the batch is not cut, because all ranks would have to cut theirs")
    assert note.endswith("; try --batch 2 --accumulate 6")
    graphs = config().with_runtime(compile=True, compile_mode="reduce-overhead")
    assert "--compile-mode reduce-overhead" in refused(graphs)
    assert "concurrently" in refused(config(), concurrent=True)


@pytest.mark.parametrize("pieces", [1, 2, 3, 4, 8])
def test_the_pieces_are_the_batch(pieces: int) -> None:
    whole = uneven_batch(0, 4)
    assert whole.labelled is not None
    mixed = whole.labelled._replace(pasted=torch.ones(4), confidence=torch.arange(4.0))
    whole = whole._replace(mixed=mixed, source=None)
    found = cut(whole, pieces)
    assert len(found) == min(pieces, 4)
    assert {piece.source for piece in found} == {None}
    for name in ("labelled", "unlabelled", "mixed"):
        streams = [getattr(piece, name) for piece in found]
        wanted = getattr(whole, name)
        for field in ("images", "labels", "pasted", "confidence"):
            values, value = [getattr(s, field) for s in streams], getattr(wanted, field)
            assert torch.equal(torch.cat(values), value) if value is not None else not any(values)


def without_memory(images: int) -> Callable[..., Any]:
    forward = DeepLab.forward

    def limited(self: DeepLab, x: Tensor) -> Any:
        if len(x) > images and self.training and torch.is_grad_enabled():
            raise torch.OutOfMemoryError(MESSAGE)
        return forward(self, x)

    return limited


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_whole_run(
    norm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Frozen: it says so once, and ends well. Batch: one line with a batch that fits."""
    monkeypatch.setattr(DeepLab, "forward", without_memory(1))
    city = tiny_runs.city(tmp_path / "city")
    words = tiny_runs.train(city, tmp_path / "run", "--batch", "2", "--model-norm", norm)
    code = main([*words, "--backward", "fused", "--plain"])
    said = capsys.readouterr()
    both = said.out + said.err
    if norm == "frozen":
        assert code == 0
        assert (
            both.count("step 1: out of GPU memory: from this step on each batch is cut into 2") == 1
        )
    else:
        assert code == 1
        assert said.err.count("\n") == 1
        assert (
            "gradients with norm batch depend on the cut; try --batch 1; step 1; to use" in said.err
        )


def test_the_module_is_the_one_that_is_trained() -> None:
    c = replace(config(), method="joint")
    step = engine(c)
    assert isinstance(step.micro_batches._module, Adaptation)
    assert step.micro_batches._module is step.module
