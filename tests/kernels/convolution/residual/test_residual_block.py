"""A residual block as one node of the graph, against the same block layer by layer."""

import contextlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fastass import kernels
from fastass.kernels import ConvNorm, folded_once, recomputed_outputs, residual_block
from fastass.kernels.convolution.residual import block
from fastass.kernels.convolution.residual.ungated import ungated

CL = torch.channels_last
Blocks = list[tuple[list[ConvNorm], ConvNorm | None]]


@pytest.fixture
def one_node(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Whether blocks are one node, which on a CPU they never are by themselves."""
    usual = block._is_one_node

    def choose(wanted: bool) -> None:
        def one(x: Tensor) -> bool:
            with monkeypatch.context() as inner:
                inner.setattr(block.dispatch, "resolve", lambda device: "triton")
                return usual(x)

        monkeypatch.setattr(block, "_is_one_node", one if wanted else lambda x: False)

    return choose


def layer(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> ConvNorm:
    padding = dilation * (kernel // 2)
    weight = torch.randn(outputs, inputs, kernel, kernel, dtype=torch.float64) / inputs**0.5
    norm = torch.rand(outputs, dtype=torch.float64) + 0.5, torch.randn(outputs, dtype=torch.float64)
    weight = weight.to(memory_format=CL)
    return ConvNorm(weight.requires_grad_(), stride, padding, dilation, norm)


def network() -> Blocks:
    """A bottleneck with a stride, one without a projection, a basic block, a dilated one."""
    torch.manual_seed(0)
    return [
        ([layer(5, 3, 1, 2), layer(3, 3, 3), layer(3, 8, 1)], layer(5, 8, 1, 2)),
        ([layer(8, 3, 1), layer(3, 3, 3), layer(3, 8, 1)], None),
        ([layer(8, 8, 3), layer(8, 8, 3)], None),
        ([layer(8, 4, 1), layer(4, 4, 3, dilation=2), layer(4, 6, 1)], layer(8, 6, 1)),
    ]


def image() -> Tensor:
    x = torch.randn(2, 5, 11, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return x.to(memory_format=CL).requires_grad_()


def weights(blocks: Blocks) -> list[Tensor]:
    return [f.weight for layers, s in blocks for f in [*layers, *([s] if s else [])]]


def outputs(blocks: Blocks, x: Tensor, run: Callable = residual_block) -> list[Tensor]:
    found = []
    for layers, shortcut in blocks:
        x = run(x, layers, shortcut)
        found.append(x)
    return found


def compare(
    one_node: Callable[[bool], None], loss: Callable[[list[Tensor]], Tensor], run: Callable
) -> None:
    """The same values and gradients as one node each and layer by layer."""
    results = []
    for wanted in (True, False):
        one_node(wanted)
        blocks, x = network(), image()
        found = outputs(blocks, x, run)
        total = loss(found)
        results.append([*found, *torch.autograd.grad(total, [x, *weights(blocks)])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def weighted(y: Tensor) -> Tensor:
    return (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum()


LOSSES = {
    "last": lambda found: weighted(found[-1]),
    # A ReLU's output that others read too: its gradient is gated once, whoever sends it.
    "every": lambda found: sum(weighted(y) for y in found),
    "squares": lambda found: found[1].square().sum() + weighted(found[-1] * 2),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shares", [True, False])
def test_values_and_gradients(one_node: Callable, loss: str, shares: bool) -> None:
    with folded_once() if shares else contextlib.nullcontext():
        compare(one_node, LOSSES[loss], residual_block)


def test_a_block_of_the_graph_is_one_node(one_node: Callable) -> None:
    one_node(True)
    found = outputs(network(), image())
    for before, after in pairwise(found):
        node = ungated(after).grad_fn  # type: ignore[union-attr]
        assert type(node).__name__ == "_ResidualBlockBackward"
        assert node.next_functions[0][0] is ungated(before).grad_fn  # type: ignore[union-attr]


def test_activation_checkpointing(one_node: Callable) -> None:
    def run(*given: object) -> Tensor:
        return checkpoint(residual_block, *given, use_reentrant=False)

    compare(one_node, LOSSES["every"], run)


def test_outputs_that_are_not_kept_are_for_plain_layers(one_node: Callable) -> None:
    one_node(True)
    layers, shortcut = network()[0]
    with recomputed_outputs():
        y = residual_block(image(), layers, shortcut)
    assert ungated(y) is None
    compare(one_node, LOSSES["last"], alternately())


def alternately() -> Callable[..., Tensor]:
    """Every second block does not keep its output."""
    count = 0

    def run(x: Tensor, layers: list[ConvNorm], shortcut: ConvNorm | None) -> Tensor:
        nonlocal count
        count += 1
        with recomputed_outputs() if count % 2 else contextlib.nullcontext():
            return residual_block(x, layers, shortcut)

    return run


def test_several_streams_through_the_same_blocks(one_node: Callable) -> None:
    """One backward for both, and one each, whose gradients add up."""
    one_node(True)
    blocks = network()
    xs = [image(), image().detach().mul(-0.5).requires_grad_()]
    total = sum((weighted(outputs(blocks, x)[-1]) for x in xs), torch.zeros((), dtype=xs[0].dtype))
    together = torch.autograd.grad(total, weights(blocks))
    for x in xs:
        weighted(outputs(blocks, x)[-1]).backward()
    for weight, expected in zip(weights(blocks), together, strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-12)


class Network(nn.Module):
    """The blocks with their weights as parameters; every output counts."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = network()
        self.weights = nn.ParameterList([nn.Parameter(w.detach()) for w in weights(self.blocks)])

    def forward(self, x: Tensor) -> Tensor:
        own = iter(self.weights)
        total = x.new_zeros(())
        for layers, shortcut in self.blocks:
            mine = [f._replace(weight=next(own)) for f in layers]
            x = residual_block(x, mine, shortcut and shortcut._replace(weight=next(own)))
            total = total + weighted(x)
        return total


@pytest.mark.filterwarnings("ignore:.*barrier.*:UserWarning")
def test_in_distributed_data_parallel(one_node: Callable, tmp_path: Path) -> None:
    """With one rank: its hooks see each gradient once, and a part without an exchange adds up."""
    one_node(True)
    alone, x = Network(), image().detach()
    (alone(x) + alone(-x)).backward()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(Network())
        with wrapped.no_sync():
            wrapped(x).backward()
        wrapped(-x).backward()
        pairs = zip(alone.weights, wrapped.module.weights, strict=True)
        for expected, ours in pairs:
            torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-12, atol=1e-12)
            assert ours.grad.stride() == ours.stride()
    finally:
        dist.destroy_process_group()


def test_constant_weights_and_a_constant_input(one_node: Callable) -> None:
    one_node(True)
    blocks = network()
    blocks[0][0][0].weight.requires_grad_(False)
    weighted(outputs(blocks, image().detach())[-1]).backward()
    assert blocks[0][0][0].weight.grad is None
    assert blocks[0][0][1].weight.grad is not None
    for weight in weights(blocks):
        weight.requires_grad_(False)
    x = image()
    weighted(outputs(blocks, x)[-1]).backward()
    assert x.grad is not None


class Saved(TorchDispatchMode):
    """Counts passes over maps that gate or add."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def test_one_gate_in_the_graph_and_none_between_blocks(one_node: Callable) -> None:
    one_node(True)
    y = outputs(network(), image())[-1]
    with Saved() as seen:
        weighted(y).backward()
    assert seen.names.count("aten::threshold_backward") == 1  # of the last output


def test_a_second_backward_and_a_changed_weight_are_noticed(one_node: Callable) -> None:
    one_node(True)
    blocks = network()
    y = outputs(blocks, image())[-1]
    with torch.no_grad():
        blocks[1][0][0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        weighted(y).backward()


def test_a_module_s_norm_is_run_layer_by_layer(one_node: Callable) -> None:
    one_node(True)
    layers = [f._replace(norm=nn.BatchNorm2d(f.weight.shape[0]).double()) for f in network()[1][0]]
    x = image().detach()[:, :1].repeat(1, 8, 1, 1)
    y = residual_block(x, layers, None)
    assert ungated(y) is None
    assert type(y.grad_fn).__name__ != "_GateBackward"


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    yield
    kernels.use_fused("off")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("choice", ["off", "on", "timed"])
def test_on_a_gpu_it_rounds_no_more_than_plain_torch(
    choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.use_fused(choice)  # type: ignore[arg-type]
    torch.manual_seed(0)
    layers = [layer(64, 64, 1), layer(64, 64, 3), layer(64, 64, 1)]
    x = torch.randn(2, 64, 19, 23, dtype=torch.float64).to(memory_format=CL)
    g = torch.randn_like(x)

    def run(dtype: torch.dtype, device: str) -> list[Tensor]:
        def to(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype).requires_grad_()

        given, ends = to(x), [to(f.weight) for f in layers]
        there = []
        for f, w in zip(layers, ends, strict=True):
            assert isinstance(f.norm, tuple)
            scale, shift = (t.to(device, dtype) for t in f.norm)
            there.append(f._replace(weight=w, norm=(scale, shift)))
        y = residual_block(residual_block(given, there, None), there, None)
        return [y, *torch.autograd.grad(y, [given, *ends], g.to(device, dtype))]

    exact = run(torch.float64, "cpu")
    ours = run(torch.bfloat16, "cuda")
    monkeypatch.setattr(block, "_is_one_node", lambda x: False)
    kernels.use("reference")
    try:
        theirs = run(torch.bfloat16, "cuda")
    finally:
        kernels.use("auto")
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        limit = 2 * float((b.cpu().double() - truth).norm()) + 1e-3 * float(truth.norm())
        assert float((a.cpu().double() - truth).norm()) <= limit
