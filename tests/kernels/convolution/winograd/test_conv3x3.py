"""conv3x3: Winograd's form against the definition in float64, values and gradients.

pytest tests/kernels/convolution/winograd/test_conv3x3.py -k at_most_twice -rP     prints the errors
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastass import kernels
from fastass.kernels import native_library
from fastass.kernels.convolution.winograd import conv3x3 as op

CL = torch.channels_last
SHAPES = [  # B, I, O, h, w, dilation
    (1, 256, 256, 33, 65, 2),
    (1, 512, 512, 17, 33, 4),
    (1, 128, 128, 33, 65, 1),
    (1, 64, 64, 37, 53, 1),
    (2, 96, 96, 17, 33, 4),
    (3, 32, 96, 10, 21, 2),
    (2, 96, 32, 23, 30, 3),
    (1, 256, 288, 31, 9, 6),
    (1, 32, 32, 1, 1, 1),
    (2, 64, 32, 3, 2, 5),  # no two pixels meet
    (2, 32, 64, 1, 40, 2),
    (1, 320, 64, 80, 64, 1),  # more tiles than one batch takes
]


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x as after a ReLU, weight, bias, gradient of y; channels last."""
    B, inputs, outputs, h, w, _ = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    x = normal(B, inputs, h, w).relu().contiguous(memory_format=CL)
    weight = (normal(outputs, inputs, 3, 3) / (4.5 * inputs) ** 0.5).contiguous(memory_format=CL)
    return x, weight, normal(outputs), normal(B, outputs, h, w).contiguous(memory_format=CL)


def ours(x: Tensor, weight: Tensor, bias: Tensor | None, g: Tensor, d: int) -> list[Tensor]:
    """y and the three gradients."""
    given = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = kernels.conv3x3(*given, dilation=d)
    return [y.detach(), *torch.autograd.grad(y, given, g)]


def plain(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, d: int) -> list[Tensor]:
    given = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = F.conv2d(given[0], given[1], given[2], padding=d, dilation=d)
    return [y.detach(), *torch.autograd.grad(y, given, g)]


def in_float64(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, d: int) -> list[Tensor]:
    return plain(x.double(), weight.double(), bias.double(), g.double(), d)


def error(actual: Tensor, truth: Tensor) -> float:
    """Root mean square, relative to that of the truth."""
    return float((actual.double() - truth).norm() / truth.norm())


@pytest.fixture(params=native_library.INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if native_library.INSTRUCTION_SETS.index(name) > native_library.library().fastass_best_isa():
        pytest.skip(f"this processor has no {name}")
    monkeypatch.setenv("FASTASS_CPU_ISA", name)
    return name


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_at_most_twice_that_of_plain_torch(shape: tuple[int, ...]) -> None:
    """Plain torch in the layouts that the models use otherwise: NCHW for a weight's gradient."""
    given, d = inputs(shape), shape[-1]
    truth = in_float64(*given, d)
    theirs = plain(*given, d)
    x, weight, bias, g = (t.contiguous() for t in given)
    theirs[2] = plain(x, weight, bias, g, d)[2]
    for name, actual, other, expected in zip(
        ("y", "x", "weight", "bias"), ours(*given, d), theirs, truth, strict=True
    ):
        unit = torch.finfo(torch.float32).eps
        print(f"{name}: {error(actual, expected):.1e}, torch {error(other, expected):.1e}")
        assert error(actual, expected) <= 2 * error(other, expected) + unit, name
        worst = float((actual - expected).abs().max() / expected.abs().max())
        assert worst < 5e-6, name


@pytest.mark.usefixtures("poisoned", "instruction_set")
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("shape", SHAPES[3:], ids=str)
def test_both_tiles_on_every_instruction_set(
    shape: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "output_tile", lambda *_: tile)
    given, d = inputs(shape), shape[-1]
    truth = in_float64(*given, d)
    for actual, expected in zip(ours(*given, d), truth, strict=True):
        assert error(actual, expected) < 1e-6


def test_strides_and_threads_do_not_matter() -> None:
    shape = (2, 96, 64, 37, 53, 2)
    x, weight, bias, g = inputs(shape)
    expected = ours(x, weight, bias, g, 2)
    wide = torch.zeros(2, 192, 37, 106)[:, ::2, :, ::2].copy_(x)
    other = ours(wide, weight.contiguous(), torch.stack([bias, bias], 1)[:, 0], g.contiguous(), 2)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 50):
            torch.set_num_threads(threads)
            for a, b in zip(ours(x, weight, bias, g, 2), expected, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(other, expected, strict=True):
        assert torch.equal(a, b)


def test_strides_of_the_results() -> None:
    x, weight, _, g = inputs((2, 64, 32, 9, 7, 1))
    for layout in (torch.contiguous_format, CL):
        y, of_x, of_weight = ours(x, weight.contiguous(memory_format=layout), None, g, 1)
        assert y.is_contiguous(memory_format=CL)
        assert of_x.is_contiguous(memory_format=CL)
        assert of_weight.stride() == weight.contiguous(memory_format=layout).stride()


def test_only_the_gradients_that_are_wanted() -> None:
    x, weight, bias, g = inputs((1, 32, 32, 9, 7, 1))
    full = ours(x, weight, bias, g, 1)[1:]
    for i in range(3):
        wanted = (i == 0, i == 1, i == 2)
        found = kernels.conv3x3_gradients(g, x, weight, dilation=1, wanted=wanted)
        ours_alone = found[i]
        assert ours_alone is not None
        assert torch.equal(ours_alone, full[i])
        assert all(t is None for j, t in enumerate(found) if j != i)


def test_nothing_but_the_inputs_is_kept() -> None:
    x, weight, bias, _ = inputs((1, 32, 32, 9, 7, 1))
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        kernels.conv3x3(x, weight.requires_grad_(), bias)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), weight.data_ptr()}


def test_reference_is_plain_torch() -> None:
    x, weight, bias, g = (t.double() for t in inputs((1, 8, 5, 9, 7, 2)))
    kernels.use("reference")
    try:
        results = ours(x, weight, bias, g, 2)
        found = kernels.conv3x3_gradients(g, x, weight, dilation=2, wanted=(True,) * 3)
    finally:
        kernels.use("auto")
    for a, b in zip(results, plain(x, weight, bias, g, 2), strict=True):
        assert torch.equal(a, b)
    for gradient, b in zip(found, results[1:], strict=True):
        torch.testing.assert_close(gradient, b)


@pytest.mark.parametrize(
    ("size", "dilation", "tile", "expected"),
    [
        ((4, 4), 1, 4, 4.0),
        ((2, 8), 1, 2, 2.25),
        ((8, 16), 2, 4, 4.0),
        ((5, 4), 1, 4, 2.5),
        ((3, 2), 5, 2, 9 / 16),
    ],
)
def test_saving(size: tuple[int, int], dilation: int, tile: int, expected: float) -> None:
    assert op.saving(*size, dilation, tile) == expected


def test_the_tile_that_rounding_allows() -> None:
    wide, small = torch.empty(1, 32, 33, 65), torch.empty(1, 32, 9, 17)
    assert op.output_tile(wide, 256, 2) == 4
    assert op.output_tile(wide, 128, 2) == 2
    assert op.output_tile(small, 256, 6) == 2  # would be mostly overhang


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(1, 32, 0, 4)}, ValueError, r"x: got shape \(1, 32, 0, 4\)"),
        ({"x": torch.zeros(1, 64, 4, 4)}, ValueError, r"expected \[O, 64, 3, 3\] as x has 64"),
        ({"x": torch.zeros(1, 32, 4, 4).double()}, TypeError, "x: got torch.float64"),
        ({"weight": torch.zeros(32, 32, 3, 1)}, ValueError, "weight: got shape"),
        ({"weight": torch.zeros(31, 32, 3, 3)}, ValueError, "multiples of 32"),
        ({"weight": torch.zeros(32, 32, 3, 3).half()}, TypeError, "weight: got torch.float16"),
        ({"bias": torch.zeros(31)}, ValueError, r"bias: got \(31,\)"),
        ({"dilation": 0}, ValueError, "dilation: got 0"),
    ],
)
def test_wrong_arguments(change: dict[str, object], error: type[Exception], message: str) -> None:
    right: dict[str, Any] = {
        "x": torch.zeros(1, 32, 4, 4),
        "weight": torch.zeros(32, 32, 3, 3),
        "bias": None,
    }
    with pytest.raises(error, match=message):
        kernels.conv3x3(**{**right, **change})


def test_wrong_gradient() -> None:
    x, weight, _, g = inputs((1, 32, 64, 4, 4, 1))
    with pytest.raises(ValueError, match=r"gradient: got \(1, 64, 4, 3\)"):
        kernels.conv3x3_gradients(g[..., 1:], x, weight, dilation=1, wanted=(True, True, True))


def test_operators_are_registered() -> None:
    x, weight, bias, g = inputs((1, 32, 64, 5, 4, 1))
    ops = torch.ops.fastass
    for layout in (torch.contiguous_format, CL):
        w = weight.contiguous(memory_format=layout)
        torch.library.opcheck(ops.conv3x3, (x, w, bias, 1, False, 2))
        torch.library.opcheck(ops.conv3x3, (g, w, None, 1, True, 4))
        torch.library.opcheck(ops.conv3x3_weight, (g, x, w, 1))
