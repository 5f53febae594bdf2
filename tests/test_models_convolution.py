"""The CPU's forms of convolutions: the same numbers, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.models.convolution import conv2d, prefers_products
from fastass.models.deeplab import Classifier

CL = torch.channels_last


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
    y = conv2d(x, layer.weight, layer.bias, layer)
    g = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    ours = torch.autograd.grad(y, inputs, g)
    doubled = [t.detach().double().requires_grad_() for t in inputs]
    truth = (
        F.conv2d(*doubled, None, stride, padding, dilation)
        if not bias
        else F.conv2d(*doubled, stride, padding, dilation)
    )
    assert_near(y, truth)
    for a, b in zip(ours, torch.autograd.grad(truth, doubled, g.double()), strict=True):
        assert_near(a, b)


@pytest.mark.parametrize("dilations", [(6, 12), (1, 2, 4, 6)])
def test_the_classifier_as_one_product(dilations: tuple[int, ...]) -> None:
    """Maps smaller than the dilation too: its outer taps read padding alone."""
    torch.manual_seed(0)
    head = Classifier(192, 5, dilations)
    x = torch.randn(2, 192, 5, 9).to(memory_format=CL).requires_grad_()
    assert prefers_products(x)
    assert head.taps < x.shape[1]
    y = head(x)
    assert y.is_contiguous(memory_format=CL)
    g = torch.randn_like(y)
    ours = torch.autograd.grad(y, [x, *head.parameters()], g)
    double = x.detach().double().requires_grad_()
    assert not prefers_products(double)
    head.double()
    truth = head(double)
    assert_near(y, truth)
    theirs = torch.autograd.grad(truth, [double, *head.parameters()], g.double())
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b)


def test_torch_itself_where_its_rules_do() -> None:
    x = torch.randn(1, 4, 8, 8).to(memory_format=CL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not prefers_products(x)
    assert not prefers_products(x.contiguous())
    assert not prefers_products(x.bfloat16())
