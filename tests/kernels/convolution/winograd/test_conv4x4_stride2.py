"""The 4×4 convolutions of D_g in Winograd's form against the definition in float64.

`pytest PATH/test_conv4x4_stride2.py -k at_most_twice -rP` prints the errors.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass import kernels
from fastass.kernels import native_library
from fastass.kernels.convolution.winograd.conv4x4_stride2 import (
    _fits,
    conv4x4_stride2,
    conv4x4_stride2_gradients,
)
from fastass.models.discriminators import NEGATIVE_SLOPE, GlobalDiscriminator

CL = torch.channels_last
SHAPES = [  # B, C, O, H, W; the first four are ToyCity's layers
    (4, 19, 16, 144, 256),
    (4, 16, 32, 72, 128),
    (2, 32, 64, 36, 64),
    (4, 64, 128, 18, 32),
    (1, 19, 64, 61, 35),
    (2, 8, 16, 37, 43),
    (3, 9, 48, 8, 5),
    (1, 17, 16, 2, 3),
    (1, 12, 32, 3, 2),
]


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, nn.Conv2d, Tensor]:
    """x as after a leaky ReLU, a layer as it is initialised, the gradient of y; channels last."""
    B, C, O, H, W = shape
    torch.manual_seed(sum(shape))
    x = F.leaky_relu(torch.randn(B, C, H, W), NEGATIVE_SLOPE).contiguous(memory_format=CL)
    layer = nn.Conv2d(C, O, 4, 2, 1).to(memory_format=CL)  # type: ignore[call-overload]
    return x, layer, torch.randn(B, O, H // 2, W // 2).contiguous(memory_format=CL)


def parameters(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight.detach(), layer.bias.detach()


def ours(x: Tensor, layer: nn.Conv2d, g: Tensor) -> list[Tensor]:
    """y and the gradients of x's own leaky ReLU's input, weight and bias."""
    weight, bias = parameters(layer)
    y = conv4x4_stride2(x, weight, bias, NEGATIVE_SLOPE)
    found = conv4x4_stride2_gradients(
        g, x, weight, negative_slope=NEGATIVE_SLOPE, to_x=True, to_weight=True
    )
    return [y, *(t for t in found if t is not None)]


def plain(x: Tensor, layer: nn.Conv2d, g: Tensor, dtype: torch.dtype) -> list[Tensor]:
    assert layer.bias is not None
    given = [t.detach().to(dtype).requires_grad_() for t in (x, layer.weight, layer.bias)]
    y = F.conv2d(given[0], given[1], given[2], stride=2, padding=1)
    of_x, of_weight, of_bias = torch.autograd.grad(y, given, g.to(dtype))
    of_x = torch.where(given[0] > 0, of_x, of_x * NEGATIVE_SLOPE)
    return [F.leaky_relu(y, NEGATIVE_SLOPE).detach(), of_x.detach(), of_weight, of_bias]


def error(actual: Tensor, truth: Tensor) -> float:
    """Root mean square, relative to that of the truth."""
    return float((actual.double() - truth).norm() / truth.norm())


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(shape: tuple[int, ...]) -> None:
    given = inputs(shape)
    assert _fits(given[0], given[1].weight)
    truth, theirs = plain(*given, torch.float64), plain(*given, torch.float32)
    for name, actual, other, expected in zip(
        ("y", "x", "weight", "bias"), ours(*given), theirs, truth, strict=True
    ):
        unit = torch.finfo(torch.float32).eps
        print(f"{name}: {error(actual, expected):.1e}, torch {error(other, expected):.1e}")
        assert error(actual, expected) <= 2 * error(other, expected) + unit, name
        assert actual.dim() == 1 or actual.is_contiguous(memory_format=CL), name
        worst = float((actual - expected).abs().max() / expected.abs().max())
        assert worst < 5e-6, name


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", native_library.INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", SHAPES[4:], ids=str)
def test_every_instruction_set(
    shape: tuple[int, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native_library.INSTRUCTION_SETS.index(name) > native_library.library().fastass_best_isa():
        pytest.skip(f"this processor has no {name}")
    monkeypatch.setenv("FASTASS_CPU_ISA", name)
    given = inputs(shape)
    for actual, expected in zip(ours(*given), plain(*given, torch.float64), strict=True):
        assert error(actual, expected) < 1e-6


def test_threads_do_not_matter() -> None:
    given = inputs((2, 19, 32, 37, 130))
    expected, before = ours(*given), torch.get_num_threads()
    try:
        for threads in (1, 3, 50):
            torch.set_num_threads(threads)
            for a, b in zip(ours(*given), expected, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_without_the_leaky_relus() -> None:
    x, layer, g = inputs((2, 19, 32, 37, 13))
    weight, bias = parameters(layer)
    y = conv4x4_stride2(x, weight, bias, None)
    of_x, of_weight, of_bias = conv4x4_stride2_gradients(
        g, x, weight, negative_slope=None, to_x=True, to_weight=False
    )
    assert of_weight is None
    assert of_bias is None
    torch.testing.assert_close(y, F.conv2d(x, layer.weight, layer.bias, 2, 1))
    assert of_x is not None
    x.requires_grad_()
    (expected,) = torch.autograd.grad(F.conv2d(x, layer.weight, None, 2, 1), x, g)
    torch.testing.assert_close(of_x, expected)


def test_a_value_that_is_not_finite_stays() -> None:
    x, layer, g = inputs((1, 16, 16, 12, 12))
    x[0, 3, 5, 5] = float("nan")
    assert all(t.isnan().any() for t in (ours(x, layer, g)[i] for i in (0, 2)))


def test_where_it_runs() -> None:
    x, layer, _ = inputs((1, 16, 16, 12, 12))
    assert _fits(x, layer.weight)
    assert not _fits(x.contiguous(), layer.weight)
    assert not _fits(x.double(), layer.weight)
    wide = torch.zeros(1, 128, 8, 8).to(memory_format=CL)
    assert not _fits(wide, nn.Conv2d(128, 256, 4).weight)
    assert not _fits(x, nn.Conv2d(16, 1, 4, 2, 1).weight)
    with kernels.without_winograd():
        assert not _fits(x, layer.weight)
    kernels.use("reference")
    try:
        assert not _fits(x, layer.weight)
    finally:
        kernels.use("auto")


def test_discriminator_equals_its_layers_written_out() -> None:
    """Logits and every gradient, both where the gradient of P is wanted and where it is not."""
    torch.manual_seed(0)
    d_g = GlobalDiscriminator(19, width=16)
    P = torch.randn(2, 19, 72, 100).softmax(1).contiguous(memory_format=CL)
    for wanted in (True, False):
        given = [P.requires_grad_(wanted), *d_g.parameters()][0 if wanted else 1 :]
        x = P
        for i, layer in enumerate(d_g.layers):
            x = layer(x if i == 0 else F.leaky_relu(x, NEGATIVE_SLOPE))
        y = d_g(P)
        torch.testing.assert_close(y, x)
        expected = torch.autograd.grad((x**2).sum(), given)
        for a, b in zip(torch.autograd.grad((y**2).sum(), given), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))
