"""conv_frozen_bn against the plain operators that it stands for."""

import contextlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fastass.kernels import conv_frozen_bn, folded_once, recomputed_outputs
from fastass.kernels.convolution.recompute import mark_of

CL = torch.channels_last


def make(channels: int, kernel: int, dtype: torch.dtype) -> tuple[nn.Conv2d, list[Tensor]]:
    """A convolution that keeps the size, and x, scale, shift, residual."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False).to(dtype)
    conv.to(memory_format=CL)  # type: ignore[call-overload]
    x, residual = (torch.randn(2, channels, 9, 13, dtype=dtype).to(memory_format=CL) for _ in "xr")
    scale, shift = torch.rand(channels, dtype=dtype) + 0.5, torch.randn(channels, dtype=dtype)
    return conv, [x.requires_grad_(), scale, shift, residual.requires_grad_()]


def plain(conv: nn.Conv2d, given: list[Tensor], with_residual: bool, relu: bool) -> Tensor:
    x, scale, shift, residual = given
    y = F.conv2d(x, conv.weight, padding=conv.padding)
    y = y * scale[:, None, None] + shift[:, None, None]
    y = y + residual if with_residual else y
    return y.relu() if relu else y


def folded(conv: nn.Conv2d, given: list[Tensor], with_residual: bool, relu: bool) -> Tensor:
    x, scale, shift, residual = given
    added = residual if with_residual else None
    constants = scale, shift, conv.stride, conv.padding, conv.dilation
    return conv_frozen_bn(x, conv.weight, *constants, residual=added, relu=relu)


def gradients(
    y: Tensor, conv: nn.Conv2d, given: list[Tensor], residual: bool
) -> tuple[Tensor, ...]:
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    wanted = [given[0], conv.weight, *([given[3]] if residual else [])]
    return y.detach(), *torch.autograd.grad(y, wanted, g)


@pytest.mark.parametrize(("residual", "relu"), list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize(("channels", "kernel"), [(6, 1), (6, 3), (64, 1), (32, 3)])
def test_values_and_gradients(channels: int, kernel: int, residual: bool, relu: bool) -> None:
    """In float64, and in float32 with the forms that a CPU prefers."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        conv, given = make(channels, kernel, dtype)
        ours = gradients(folded(conv, given, residual, relu), conv, given, residual)
        theirs = gradients(plain(conv, given, residual, relu), conv, given, residual)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_without_gradients_it_is_the_same() -> None:
    conv, given = make(32, 3, torch.float32)
    with torch.no_grad():
        y = folded(conv, given, True, True)
    assert torch.equal(y, folded(conv, given, True, True))
    assert given[3].requires_grad  # and nobody's memory was written to
    assert torch.equal(given[3], make(32, 3, torch.float32)[1][3])


def test_a_constant_weight_gets_no_gradient() -> None:
    conv, given = make(6, 3, torch.float64)
    conv.requires_grad_(False)
    y = folded(conv, given, True, True)
    (ours,) = torch.autograd.grad(y.square().sum(), given[0])
    (theirs,) = torch.autograd.grad(plain(conv, given, True, True).square().sum(), given[0])
    torch.testing.assert_close(ours, theirs)


class Keeping:
    """Adds what autograd saves to a list."""

    def __init__(self, kept: list[Tensor]) -> None:
        self.kept = kept

    def __call__(self, tensor: Tensor) -> Tensor:
        self.kept.append(tensor)
        return tensor


@pytest.mark.parametrize("relu", [True, False])
def test_an_output_that_is_not_kept(relu: bool) -> None:
    """Two convolutions, the first one's output recomputed: the same gradients, for less memory."""
    conv, given = make(32, 1, torch.float64)
    wanted = [given[0], conv.weight, given[3]]
    found: list[tuple[Tensor, ...]] = []
    for drop in (False, True):
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(Keeping(kept), lambda t: t):
            with recomputed_outputs() if drop else contextlib.nullcontext():
                y = folded(conv, given, True, relu)
            z = folded(conv, [y, *given[1:]], False, True)
        assert (y.data_ptr() in {t.data_ptr() for t in kept}) == (not drop)
        found.append(torch.autograd.grad(z.square().sum(), wanted))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_an_output_that_is_not_kept_is_let_go_after_its_last_reader() -> None:
    """And a second backward, for which it is gone, says so."""
    conv, given = make(32, 1, torch.float64)
    with recomputed_outputs():
        y = folded(conv, given, True, True)
    again = mark_of(y)
    assert again is not None
    z = folded(conv, [y, *given[1:]], False, False)
    gradient = torch.ones_like(z)
    (of_y,) = torch.autograd.grad(z, y, gradient, retain_graph=True)
    assert torch.equal(again.value(), y)
    del z
    torch.autograd.grad(y, given[0], of_y, retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        torch.autograd.grad(y, given[0], of_y)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own imports
def test_compiled_it_is_plain_operators() -> None:
    """Which a compiler fuses by itself."""
    conv, given = make(32, 3, torch.float32)
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph.code)
        return graph

    compiled = torch.compile(folded, backend=keep, fullgraph=True)
    y = compiled(conv, given, True, True)
    assert len(graphs) == 1
    assert "conv2d" in graphs[0]
    torch.testing.assert_close(y, folded(conv, given, True, True), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_on_a_gpu_the_epilogue_rounds_no_more_than_plain_torch(
    kernel: int, residual: bool, relu: bool
) -> None:
    conv, given = make(64, kernel, torch.float64)
    conv, given = conv.cuda(), [t.detach().cuda().requires_grad_(t.requires_grad) for t in given]
    exact = gradients(plain(conv, given, residual, relu), conv, given, residual)
    conv.bfloat16()
    half = [t.detach().bfloat16().requires_grad_(t.requires_grad) for t in given]
    ours = gradients(folded(conv, half, residual, relu), conv, half, residual)
    theirs = gradients(plain(conv, half, residual, relu), conv, half, residual)
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        limit = 2 * float((b.double() - truth).norm()) + 1e-3 * float(truth.norm())
        assert float((a.double() - truth).norm()) <= limit


class Products(TorchDispatchMode):
    """Counts the products weight · scale."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.count += func.name().startswith("aten::mul") and made.shape == self.shape
        return made


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_one_product_of_weight_and_scale_serves_a_whole_step(dtype: torch.dtype | None) -> None:
    """Two forwards and their backwards → the same bits with one product as with four."""
    conv, given = make(6, 3, torch.float32)
    results, counts = [], []
    for scope in (contextlib.nullcontext, folded_once):
        autocast = torch.autocast("cpu", dtype, enabled=dtype is not None)
        with Products(conv.weight.shape) as products, scope():
            with autocast:
                ys = [folded(conv, given, True, True) for _ in range(2)]
            results.append([t for y in ys for t in gradients(y, conv, given, True)])
        counts.append(products.count)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    gradients_of_weight = 2  # their own products with the scale
    assert counts == [4 + gradients_of_weight, 1 + gradients_of_weight]


def test_the_next_step_folds_the_changed_weight() -> None:
    conv, given = make(6, 1, torch.float32)
    for _ in range(2):
        with folded_once(), torch.no_grad():
            y = folded(conv, given, False, False)
        assert torch.equal(y, folded(conv, given, False, False))
        with torch.no_grad():
            conv.weight.mul_(2)


def test_a_block_computed_again_finds_the_shared_product() -> None:
    """Activation checkpointing forwards a block in the backward; it must save the same tensors."""
    conv, given = make(6, 3, torch.float32)
    results = []
    for scope in (contextlib.nullcontext, folded_once):
        with scope():
            y = checkpoint(folded, conv, given, True, True, use_reentrant=False)
            results.append(gradients(y, conv, given, True))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
