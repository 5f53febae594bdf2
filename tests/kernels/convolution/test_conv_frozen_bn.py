"""folded_conv2d against the plain operators that it stands for."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels.convolution.conv_frozen_bn import folded_conv2d

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
    return folded_conv2d(
        x, conv.weight, scale, shift, conv, residual=residual if with_residual else None, relu=relu
    )


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
