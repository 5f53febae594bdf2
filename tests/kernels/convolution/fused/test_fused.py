"""Convolutions with their epilogue in one kernel: values and gradients, and which form runs."""

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from child import interpreted
from torch import Tensor

from fastass import kernels
from fastass.kernels.convolution.folding import folded
from fastass.kernels.convolution.fused import choice, forms
from fastass.kernels.convolution.split_backward import Geometry

CL = torch.channels_last
ROUNDING = 2**-7  # of bf16 in the interpreter, which cuts off instead of rounding


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    yield
    kernels.use_fused("off")


# --- which form runs ------------------------------------------------------------------------------


def numbered(*names: str) -> dict:
    return {name: lambda i=i: torch.tensor(i) for i, name in enumerate(names)}


def test_off_runs_the_first_form_and_on_the_last() -> None:
    made = numbered("cudnn", "cudnn-fused", "triton")
    assert choice.run("key", made) == 0
    assert not choice.is_fused()
    kernels.use_fused("on")
    assert choice.run("key", made) == 2
    assert choice.is_fused()
    assert kernels.describe_fused() == ""
    with pytest.raises(ValueError, match="got 'always', expected one of off, timed, on"):
        kernels.use_fused("always")  # type: ignore[arg-type]


def test_the_fastest_form_is_timed_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    kernels.use_fused("timed")
    ms = {"cudnn": 3.0, "cudnn-fused": None, "triton": 2.0}
    timed: list[float] = []

    def milliseconds(form) -> float | None:
        timed.append(float(form()))
        return [*ms.values()][int(form())]

    monkeypatch.setattr(choice, "milliseconds", milliseconds)
    for _ in range(2):
        assert choice.run("small", numbered(*ms)) == 2
    assert timed == [0, 1, 2]
    ms["cudnn"] = 1.0
    assert choice.run("large", numbered(*ms)) == 0
    assert choice.run("small", numbered(*ms)) == 2
    assert choice.run("alone", numbered("cudnn")) == 0
    assert kernels.describe_fused() == (
        "fused convolutions: 2 timed, triton 1, cudnn 1 chosen; cudnn-fused does not run for 2"
    )
    kernels.use_fused("timed")
    assert kernels.describe_fused() == ""


def test_nothing_is_timed_while_a_cuda_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    kernels.use_fused("timed")
    assert choice.run("key", numbered("cudnn", "triton")) == 0
    assert kernels.describe_fused() == ""


def test_a_form_that_does_not_run_here_is_left_out() -> None:
    def fails() -> Tensor:
        raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")

    assert choice.milliseconds(fails) is None


# --- values ---------------------------------------------------------------------------------------


def draw(*size: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    made = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.contiguous(memory_format=CL) if len(size) == 4 else made


def close(ours: Tensor, exact: Tensor, *context: object, roundings: int = 1) -> None:
    assert ours.isfinite().all(), context
    error = (ours.double() - exact).abs() - roundings * ROUNDING * exact.abs().clamp(min=1)
    assert float(error.max()) <= 0, (context, float(error.max()))


def check_pointwise() -> None:
    """Runs where TRITON_INTERPRET=1: pixels that fill no tile, every epilogue, both directions."""
    shapes = itertools.cycle(((64, 128, 9, 11), (128, 64, 5, 13), (64, 64, 3, 7)))
    for part in itertools.product((True, False), repeat=4):
        (N, M, h, w), (with_bias, with_residual, relu, with_gate) = next(shapes), part
        x, weight = draw(2, N, h, w), draw(M, N, seed=1) * 0.1
        residual, gate = draw(2, M, h, w, seed=2), draw(2, M, h, w, seed=3).relu()
        gate[0, 0, 0, 0] = float("nan")
        bias = draw(M, dtype=torch.float32, seed=4) if with_bias else None
        exact = F.conv2d(x.double(), weight.double()[:, :, None, None])
        exact = exact if bias is None else exact + bias.double()[:, None, None]
        exact = exact + residual.double() if with_residual else exact
        exact = exact.relu() if relu else exact
        exact = torch.where(gate <= 0, 0.0, exact) if with_gate else exact
        layouts = {
            (True, True): x,
            (True, False): x.contiguous(),  # channels-first
            (False, True): draw(4, N, h, w)[::2].copy_(x),
            (False, False): x.transpose(2, 3).contiguous().transpose(2, 3),  # neither
        }
        y = forms.pointwise(
            layouts[with_bias, relu],
            weight.t().contiguous().t() if relu else weight,
            bias,
            (residual.contiguous() if relu else residual) if with_residual else None,
            relu=relu,
            gate=gate if with_gate else None,
        )
        assert y.is_contiguous(memory_format=CL)
        close(y, exact, N, M, part)


def check_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a frozen bottleneck runs, with the most fused forms, against float64."""

    def cudnn_fused(
        x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry, residual: Tensor | None
    ) -> Tensor:
        y = F.conv2d(x.double(), weight.double(), bias.double(), *geometry)
        y = y if residual is None else y + residual.double()
        return y.relu().to(x.dtype).contiguous(memory_format=CL)

    monkeypatch.setattr(forms, "_cudnn_fused", cudnn_fused)
    kernels.use_fused("on")
    plain: Geometry = ((1, 1), (0, 0), (1, 1))
    dilated: Geometry = ((1, 1), (2, 2), (2, 2))
    strided: Geometry = ((2, 2), (0, 0), (1, 1))
    for geometry, k in ((plain, 1), (dilated, 3), (strided, 1)):
        x, weight = draw(2, 64, 7, 9), draw(64, 64, k, k, seed=1) * 0.1
        shift = draw(64, dtype=torch.float32, seed=2)
        for with_residual, relu in itertools.product((True, False), repeat=2):
            z = F.conv2d(x.double(), weight.double(), shift.double(), *geometry)
            residual = draw(*z.shape, seed=3) if with_residual else None
            z = z if residual is None else z + residual.double()
            y = forms.conv_epilogue(x, weight, shift, geometry, residual, relu)
            close(y, z.relu() if relu else z, geometry, with_residual, relu, roundings=3)
        y, mean, variance = forms.conv_moments(x, weight, geometry, draw(64, dtype=torch.float32))
        close(y, F.conv2d(x.double(), weight.double(), None, *geometry), geometry)
        of_y, mean_of_y = torch.var_mean(y.double(), (0, 2, 3), correction=0)
        torch.testing.assert_close(mean.double(), mean_of_y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(variance.double(), of_y, rtol=1e-5, atol=1e-5)
        g, added, gate = draw(*z.shape, seed=4), draw(*x.shape, seed=5), draw(*x.shape, seed=6)
        exact_x, exact_weight = torch.autograd.grad(
            F.conv2d(a := x.double().requires_grad_(), b := weight.double().requires_grad_(),
                     None, *geometry),
            (a, b),
            g.double(),
        )  # fmt: skip
        for to_x, to_weight in itertools.product((True, False), repeat=2):
            of_x, of_weight = forms.conv_gradients(
                g, x, weight, geometry, (to_x, to_weight), residual=added, gate=gate
            )
            assert (of_x is None, of_weight is None) == (not to_x, not to_weight)
            if of_x is not None:
                expected = torch.where(gate <= 0, 0.0, exact_x + added.double())
                close(of_x, expected, geometry, roundings=3)
            if of_weight is not None:
                scale = float(exact_weight.abs().max())
                assert float((of_weight.double() - exact_weight).abs().max()) < 0.02 * scale


def check_fold() -> None:
    """Bit for bit the products one by one, for rows of every length."""
    from fastass.kernels.convolution.fused.fold_gpu import fold, row_starts

    shapes = ((3, 5, 7, 7), (64, 65, 1, 1), (2, 700, 3, 3), (1, 1, 1, 1))
    weights = [draw(*shape, dtype=torch.float32, seed=i) for i, shape in enumerate(shapes)]
    scales = [draw(shape[0], dtype=torch.float32, seed=9 + i) for i, shape in enumerate(shapes)]
    products = fold(weights, scales, row_starts(weights), torch.float32)
    for weight, scale, product in zip(weights, scales, products, strict=True):
        assert product.shape == weight.shape
        assert product.is_contiguous(memory_format=CL)
        assert torch.equal(product, folded(weight, scale, torch.float32))


def test_in_the_interpreter() -> None:
    interpreted(__file__)


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # new memory holds NaN
    check_pointwise()
    with pytest.MonkeyPatch.context() as patched:
        check_forms(patched)
    check_fold()
