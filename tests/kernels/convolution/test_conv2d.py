"""The CPU's forms of convolutions: the same numbers, forward and backward."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastass import kernels
from fastass.kernels import conv2d, without_winograd
from fastass.kernels.convolution.conv2d import conv2d_gradients
from fastass.kernels.convolution.cpu_forms import has_cpu_forms

CL = torch.channels_last


def of_layer(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation)


def assert_near(ours: Tensor, truth: Tensor) -> None:
    truth = truth.detach()
    scale = float(truth.abs().max())
    torch.testing.assert_close(ours.detach().double(), truth, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("layout", [torch.contiguous_format, CL])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 2, 2), (4, 2, 1, 1), (7, 2, 3, 1)],
)
def test_gradients_equal_torch_in_float64(
    kernel: int, stride: int, padding: int, dilation: int, bias: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, kernel, stride, padding, dilation, bias=bias)
    layer.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(2, 64, 13, 17).to(memory_format=layout).requires_grad_()
    y = of_layer(x, layer)
    g = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad(y, inputs, g)
    doubled = [t.detach().double().requires_grad_() for t in inputs]
    truth = F.conv2d(
        doubled[0], doubled[1], doubled[2] if bias else None, stride, padding, dilation
    )
    assert_near(y, truth)
    for a, b in zip(ours, torch.autograd.grad(truth, doubled, g.double()), strict=True):
        assert_near(a, b)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (3, 4), (3, 9), (1, 1)])
def test_the_gradients_of_few_outputs_equal_torch_in_float64(kernel: int, dilation: int) -> None:
    """A dilation beyond the map too."""
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 19, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    layer.to(memory_format=CL)  # type: ignore[call-overload]
    x = torch.randn(2, 64, 8, 13).to(memory_format=CL).requires_grad_()
    y = of_layer(x, layer)
    assert "SplitBackward" in type(y.grad_fn).__name__
    g = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad(y, inputs, g)
    doubled = [t.detach().double().requires_grad_() for t in inputs]
    image, weight, bias = doubled
    truth = F.conv2d(image, weight, bias, 1, layer.padding, layer.dilation)
    for a, b in zip(ours, torch.autograd.grad(truth, doubled, g.double()), strict=True):
        assert_near(a, b)
    assert ours[1].stride() == layer.weight.stride()


def test_torch_itself_where_its_rules_do() -> None:
    x = torch.randn(1, 4, 8, 8).to(memory_format=CL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not has_cpu_forms(x)
    assert not has_cpu_forms(x.contiguous())
    assert not has_cpu_forms(x.bfloat16())


class Called(TorchDispatchMode):
    """The names of the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def runs_winograd(x: Tensor, layer: nn.Conv2d) -> bool:
    with Called() as called:
        of_layer(x, layer)
    return "fastass::conv3x3" in called.names


def test_which_convolutions_save_multiplications() -> None:
    def layer(i: int, o: int, k: int = 3, **how: Any) -> nn.Conv2d:
        return nn.Conv2d(i, o, k, **how).to(memory_format=CL)  # type: ignore[call-overload]

    x = torch.randn(2, 64, 17, 33).to(memory_format=CL)
    usual = layer(64, 96, padding=2, dilation=2)
    assert runs_winograd(x, usual)
    with torch.no_grad():
        assert runs_winograd(x, usual)
    assert not runs_winograd(x, layer(64, 96, padding=1, stride=2))
    assert not runs_winograd(x, layer(64, 96, padding=1, dilation=2))
    assert not runs_winograd(x, layer(64, 19, padding=1))
    assert not runs_winograd(x, layer(64, 96, k=1))
    assert not runs_winograd(x, layer(64, 96, padding=24, dilation=24))  # tiles of one pixel
    assert not runs_winograd(x.contiguous(), usual)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not runs_winograd(x, usual)
    with without_winograd():
        assert not runs_winograd(x, usual)
    assert runs_winograd(x, usual)
    kernels.use("reference")
    try:
        assert not runs_winograd(x, usual)
    finally:
        kernels.use("auto")


def test_winograd_with_gradients_by_hand() -> None:
    """`conv2d_gradients`, which other operators call, equals autograd's."""
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 96, 3, padding=2, dilation=2).to(memory_format=CL)  # type: ignore[call-overload]
    x = torch.randn(2, 64, 17, 33).to(memory_format=CL).requires_grad_()
    y = of_layer(x, layer)
    g = torch.randn_like(y)
    by_autograd = torch.autograd.grad(y, [x, *layer.parameters()], g)
    geometry = ((1, 1), (2, 2), (2, 2))
    by_hand = conv2d_gradients(g, x.detach(), layer.weight.detach(), geometry, (True, True, True))
    for a, b in zip(by_autograd, by_hand, strict=True):
        assert b is not None
        assert torch.equal(a, b)
    assert by_hand[1] is not None
    assert by_hand[1].stride() == layer.weight.stride()


def test_a_compiled_convolution_is_torch_itself() -> None:
    layer = nn.Conv2d(32, 32, 3, padding=1).to(memory_format=CL)  # type: ignore[call-overload]
    x = torch.randn(1, 32, 9, 9).to(memory_format=CL)
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph.code)
        return graph

    torch.compile(lambda x: of_layer(x, layer), backend=keep)(x)
    assert len(graphs) == 1
    assert "conv2d" in graphs[0]
    assert "conv3x3" not in graphs[0]


def test_a_padding_in_words_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'same' as padding"):
        conv2d(torch.zeros(1, 2, 5, 5), torch.zeros(3, 2, 3, 3), padding="same")


def test_what_follows_may_work_in_place() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 64, 3, padding=1).to(memory_format=CL)  # type: ignore[call-overload]
    assert layer.bias is not None
    x = torch.randn(2, 32, 17, 33).to(memory_format=CL).requires_grad_()
    assert runs_winograd(x, layer)
    y = F.relu(of_layer(x, layer), inplace=True)
    truth = F.conv2d(x, layer.weight, layer.bias, padding=1).relu()
    g = torch.randn_like(truth)
    expected = torch.autograd.grad(truth, [x, layer.weight], g)
    for a, b in zip(torch.autograd.grad(y, [x, layer.weight], g), expected, strict=True):
        assert_near(a, b.double())
