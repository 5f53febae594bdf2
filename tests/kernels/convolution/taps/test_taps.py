"""The classifier as one product on a GPU: in the interpreter, against the definition in float64."""

import pytest
import torch
import torch.nn.functional as F
from child import interpreted
from torch import Tensor

from fastass import kernels
from fastass.kernels.convolution.taps.product import one_product

CL = torch.channels_last


def definition(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], dilations: tuple[int, ...]
) -> Tensor:
    terms = [
        F.conv2d(x, weight, bias, padding=d, dilation=d)
        for weight, bias, d in zip(weights, biases, dilations, strict=True)
    ]
    return torch.stack(terms).sum(dim=0)


def drawn(
    C: int, N: int, size: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        made = torch.randn(shape, generator=generator)
        return made.contiguous(memory_format=CL) if len(shape) == 4 else made

    weights, biases = [draw(C, N, 3, 3) for _ in dilations], [draw(C) for _ in dilations]
    return draw(2, N, *size), weights, biases, draw(2, C, *size)


def check_interpreted() -> None:
    """Runs where TRITON_INTERPRET=1. Maps smaller than the dilation; 1, 2 and 4 of them."""
    for C, size, dilations in ((5, (7, 9), (1, 2, 4, 6)), (19, (4, 5), (6, 12)), (3, (5, 3), (2,))):
        x, weights, biases, g = drawn(C, 24, size, dilations)
        given = [t.requires_grad_() for t in (x, *weights, *biases)]
        y = one_product(x, weights, biases, dilations)
        assert y.is_contiguous(memory_format=CL)
        exact = [t.detach().double().requires_grad_() for t in given]
        count = len(dilations)
        truth = definition(exact[0], exact[1 : 1 + count], exact[1 + count :], dilations)
        for last in (True, False):  # the gradient's layout
            incoming = g if last else g.contiguous()
            ours = (y, *torch.autograd.grad(y, given, incoming, retain_graph=True))
            theirs = (truth, *torch.autograd.grad(truth, exact, g.double(), retain_graph=True))
            for a, b in zip(ours, theirs, strict=True):
                scale = float(b.detach().abs().max())
                torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * scale)
        assert all(a.grad_fn is None for a in weights)
    frozen = [w.detach() for w in weights]
    y = one_product(x, frozen, biases, dilations)
    (of_x,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(of_x.double(), theirs[1], rtol=0, atol=1e-4)


def check_padding() -> None:
    """Columns behind the last tap are written: the product that reads them must not see NaN."""
    from fastass.kernels.convolution.taps import gpu

    rows = torch.randn(2 * 3 * 5, 3)
    taps = gpu.scatter(rows, 32, (2, 3, 5), (1,))
    assert taps.shape == (30, 32)
    assert torch.equal(taps[:, 27:], torch.zeros(30, 5))
    assert torch.equal(taps[:, 12:15], rows)  # the middle tap


def check_half() -> None:
    """In bf16 the error is at most twice that of the convolutions in bf16."""
    dilations = (1, 2)
    x, weights, biases, _ = drawn(19, 400, (6, 7), dilations)
    half = [t.bfloat16() for t in (x, *weights, *biases)]
    exact = [t.double() for t in half]
    truth = definition(exact[0], exact[1:3], exact[3:], dilations)
    ours, theirs = (f(half[0], half[1:3], half[3:], dilations) for f in (one_product, definition))
    assert float((ours.double() - truth).norm()) <= 2 * float((theirs.double() - truth).norm())


def test_in_the_interpreter() -> None:
    interpreted(__file__)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    dilations = (6, 12, 18, 24)
    x, weights, biases, g = drawn(19, 1024, (33, 41), dilations)
    half = [t.cuda().to(dtype).requires_grad_() for t in (x, *weights, *biases)]
    exact = [t.detach().double().requires_grad_() for t in half]

    def run(f, given: list[Tensor]) -> list[Tensor]:
        y = f(given[0], given[1:5], given[5:], dilations)
        return [y, *torch.autograd.grad(y, given, g.cuda().to(y.dtype))]

    truth, ours = run(definition, exact), run(kernels.multi_dilation_conv, half)
    for a, b, c in zip(ours, run(definition, half), truth, strict=True):
        limit = 2 * float((b.double() - c).norm()) + 1e-3 * float(c.norm())
        assert float((a.double() - c).norm()) <= limit


if __name__ == "__main__":
    check_interpreted()
    check_padding()
    check_half()
