"""D_g's stack of convolutions against its layers in float64: where each gradient goes."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastass import kernels

SLOPE = 0.2
CHANNELS = (19, 16, 32, 1)


def draw() -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """x, weights and biases."""
    torch.manual_seed(0)
    x = torch.randn(2, 19, 37, 50).contiguous(memory_format=torch.channels_last)
    weights = [0.1 * torch.randn(o, i, 4, 4) for i, o in pairwise(CHANNELS)]
    biases = [torch.randn(o) for o in CHANNELS[1:]]
    for t in (x, *weights, *biases):
        t.requires_grad_()
    return x, weights, biases


def definition(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = F.conv2d(F.leaky_relu(x, SLOPE) if i else x, weight, bias, stride=2, padding=1)
    return x


def assert_near(ours: Tensor, truth: Tensor) -> None:
    scale = float(truth.detach().abs().max())
    torch.testing.assert_close(ours.double(), truth, rtol=0, atol=1e-5 * scale)


def test_values_and_gradients() -> None:
    x, weights, biases = draw()
    y = kernels.leaky_conv_stack(x, weights, biases, negative_slope=SLOPE)
    exact = [t.detach().double().requires_grad_() for t in (x, *weights, *biases)]
    truth = definition(exact[0], exact[1:4], exact[4:])
    assert_near(y, truth)
    g = torch.randn_like(y)
    ours = torch.autograd.grad(y, [x, *weights, *biases], g)
    for a, b in zip(ours, torch.autograd.grad(truth, exact, g.double()), strict=True):
        assert_near(a, b)


@pytest.mark.parametrize("autocast", [False, True])
def test_twice_sends_each_gradient_one_way(autocast: bool) -> None:
    x, weights, biases = draw()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        to_x, to_parameters = kernels.leaky_conv_stack_twice(
            x, weights, biases, negative_slope=SLOPE
        )
        y = kernels.leaky_conv_stack(x, weights, biases, negative_slope=SLOPE)
    assert torch.equal(to_x, to_parameters)
    everything = [x, *weights, *biases]
    g = torch.randn_like(y)
    expected = torch.autograd.grad(y, everything, g)
    for output, reached in ((to_x, everything[:1]), (to_parameters, everything[1:])):
        found = torch.autograd.grad(output, everything, g, retain_graph=True, allow_unused=True)
        for t, ours, theirs in zip(everything, found, expected, strict=True):
            if any(t is other for other in reached):
                assert ours is not None
                assert torch.equal(ours, theirs)
            else:
                assert ours is None


@pytest.mark.parametrize("twice", [False, True])
def test_under_autocast_it_is_the_layers_under_autocast(twice: bool) -> None:
    x, weights, biases = draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if twice:
            (y, other) = kernels.leaky_conv_stack_twice(x, weights, biases, negative_slope=SLOPE)
        else:
            y = other = kernels.leaky_conv_stack(x, weights, biases, negative_slope=SLOPE)
        truth = definition(x, weights, biases)
    assert y.dtype == other.dtype == torch.bfloat16
    torch.testing.assert_close(y, truth, rtol=0, atol=0)
    g = torch.randn_like(y)
    expected = torch.autograd.grad(truth, [x, *weights, *biases], g)
    found = [*torch.autograd.grad(y, [x], g, retain_graph=True)]
    found += torch.autograd.grad(other, [*weights, *biases], g)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max()))


def test_a_weight_that_changed_after_the_forward_is_an_error() -> None:
    x, weights, biases = draw()
    y = kernels.leaky_conv_stack(x, weights, biases, negative_slope=SLOPE)
    with torch.no_grad():
        weights[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
