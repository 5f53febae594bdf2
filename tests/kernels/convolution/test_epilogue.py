"""convolution_epilogue_: every implementation against float64, in the memory of its input."""

import itertools

import pytest
import torch
from child import interpreted
from torch import Tensor

from fastass import kernels
from fastass.kernels.convolution import epilogue as op

LAYOUTS = (torch.channels_last, torch.contiguous_format)
PARTS = list(itertools.product((True, False), repeat=3))  # bias, residual, ReLU


def inputs(
    dtype: torch.dtype, layout: torch.memory_format, shape: tuple[int, ...] = (2, 37, 9, 13)
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    bias = torch.randn(shape[1], generator=generator)
    return x.contiguous(memory_format=layout), bias, residual.contiguous(memory_format=layout)


def truth(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    gate: Tensor | None = None,
) -> Tensor:
    y = x.double()
    if bias is not None:
        y = y + bias.double()[:, None, None]
    if residual is not None:
        y = y + residual.double()
    if gate is not None:
        y = torch.where(gate <= 0, 0.0, y)
    return y.relu() if relu else y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("with_bias", "with_residual", "relu"), PARTS)
def test_the_parts_in_place(
    with_bias: bool, with_residual: bool, relu: bool, layout: torch.memory_format
) -> None:
    x, bias, residual = inputs(torch.float32, layout)
    given = (bias if with_bias else None, residual if with_residual else None)
    expected = truth(x, *given, relu)
    y = kernels.convolution_epilogue_(x, *given, relu=relu)
    assert y.data_ptr() == x.data_ptr()
    assert y.stride() == residual.stride()
    assert float((y - expected).abs().max()) < 1e-6
    assert bool((y < 0).any()) is not relu


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_residual", [True, False])
def test_the_gate_of_a_gradient(with_residual: bool, layout: torch.memory_format) -> None:
    """As torch gates the gradient of a ReLU, also where its output is not a number."""
    x, _, residual = inputs(torch.float32, layout)
    gate = residual.flip(0).relu().contiguous(memory_format=layout)
    gate[0, 1, 2, 3] = float("nan")
    added = residual if with_residual else None
    expected = torch.ops.aten.threshold_backward(x + residual if with_residual else x, gate, 0)
    y = kernels.convolution_epilogue_(x, None, added, relu=False, gate=gate)
    assert y is x
    assert torch.equal(y, expected)
    assert y[0, 1, 2, 3] != 0


def test_bad_arguments_are_named() -> None:
    x, bias, residual = inputs(torch.float32, torch.channels_last)
    cases = [
        (ValueError, "x: got shape", (x[0], bias, None)),
        (ValueError, r"bias: got \(36,\)", (x, bias[1:], None)),
        (ValueError, "residual: got", (x, bias, residual[:, 1:])),
        (TypeError, "residual: got torch.float64", (x, bias, residual.double())),
        (ValueError, "on meta", (x, bias, residual.to("meta"))),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            kernels.convolution_epilogue_(*arguments, relu=True)
    with pytest.raises(ValueError, match=r"gate: got \(2, 36"):
        kernels.convolution_epilogue_(x, None, relu=False, gate=residual[:, 1:])


def check_triton() -> None:
    """Runs where TRITON_INTERPRET=1."""
    shapes = [(2, 37, 9, 13), (1, 64, 1, 1), (1, 300, 3, 5)]
    for shape, layout in itertools.product(shapes, LAYOUTS):
        for dtype, parts in itertools.product((torch.float32, torch.bfloat16), PARTS):
            x, bias, residual = inputs(dtype, layout, shape)
            given = (bias if parts[0] else None, residual if parts[1] else None)
            expected = truth(x, *given, parts[2])
            y = op._cuda(x, *given, parts[2])
            assert y is x
            # The interpreter cuts bf16 off instead of rounding.
            unit = 1e-6 if dtype == torch.float32 else 2**-7
            error = (y - expected).abs() - unit * expected.abs().clamp(min=1)
            assert float(error.max()) <= 0, (shape, layout, dtype, parts)
            x, _, residual = inputs(dtype, layout, shape)
            gate = residual.flip(0).relu()
            gate[0, 0, 0, 0] = float("nan")
            expected = truth(x, None, given[1], False, gate)
            y = op._cuda(x, None, given[1], False, gate)
            error = (y - expected).abs() - unit * expected.abs().clamp(min=1)
            assert float(error.max()) <= 0, (shape, layout, dtype, parts)
    x, bias, residual = inputs(torch.float32, torch.channels_last)
    x[0, 3, 2, 1] = float("nan")
    expected = truth(x, bias, residual, True)
    y = op._cuda(x, bias, residual.contiguous(), True)  # the residual in another layout
    torch.testing.assert_close(y, expected.float(), equal_nan=True)
    assert y.isnan().sum() == 1
    with pytest.raises(ValueError, match="expected a dense map"):
        op._cuda(x[:, ::2], None, None, True)
    with pytest.raises(TypeError, match="expected float32"):
        op._cuda(x.double(), None, None, True)


def test_triton_in_the_interpreter() -> None:
    interpreted(__file__)


if __name__ == "__main__":
    check_triton()
