"""The sum of dilated convolutions, computed as one product, against the definition in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastass import kernels
from fastass.kernels.convolution.cpu_forms import has_cpu_forms


def definition(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], dilations: tuple[int, ...]
) -> Tensor:
    terms = [
        F.conv2d(x, weight, bias, padding=d, dilation=d)
        for weight, bias, d in zip(weights, biases, dilations, strict=True)
    ]
    return torch.stack(terms).sum(dim=0)


@pytest.mark.parametrize("channels", [192, 96])  # more than there are taps, and fewer
@pytest.mark.parametrize("dilations", [(6, 12), (1, 2, 4, 6)])
def test_values_and_gradients(dilations: tuple[int, ...], channels: int) -> None:
    """Maps smaller than the dilation too: its outer taps read padding alone."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    C = 5 if channels == 192 else 11
    x = draw(2, channels, 5, 9).contiguous(memory_format=torch.channels_last)
    weights = [draw(C, channels, 3, 3) for _ in dilations]
    biases = [draw(C) for _ in dilations]
    assert has_cpu_forms(x)
    assert (channels > 9 * C * len(dilations)) == (channels == 192)
    given = [t.requires_grad_() for t in (x, *weights, *biases)]
    y = kernels.multi_dilation_conv(x, weights, biases, dilations)
    assert y.is_contiguous(memory_format=torch.channels_last)
    exact = [t.detach().double().requires_grad_() for t in given]
    count = len(dilations)
    truth = definition(exact[0], exact[1 : 1 + count], exact[1 + count :], dilations)
    g = draw(*y.shape)
    ours = (y, *torch.autograd.grad(y, given, g))
    theirs = (truth, *torch.autograd.grad(truth, exact, g.double()))
    for a, b in zip(ours, theirs, strict=True):
        scale = float(b.detach().abs().max())
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * scale)


def test_as_many_of_each() -> None:
    x, weight, bias = torch.zeros(1, 4, 5, 5), torch.zeros(3, 4, 3, 3), torch.zeros(3)
    with pytest.raises(ValueError, match="2 weights, 1 biases and 2 dilations"):
        kernels.multi_dilation_conv(x, [weight, weight], [bias], (1, 2))
    with pytest.raises(ValueError, match="at least one"):
        kernels.multi_dilation_conv(x, [], [], ())
