"""Triton's batch norm in the interpreter, against torch's in float64."""

import copy
import itertools

import pytest
import torch
from child import interpreted
from torch import Tensor, nn

from fastass import kernels
from fastass.kernels import ConvNorm, folded_once
from fastass.kernels.convolution import batch_norm as norms
from fastass.kernels.convolution.norm import op
from fastass.kernels.convolution.residual import block
from fastass.kernels.convolution.residual.ungated import ungated
from fastass.kernels.convolution.running_statistics import collected

CL = torch.channels_last


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.contiguous(memory_format=CL) if len(shape) == 4 else made


def made_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(drawn((channels,), torch.float32, 5).abs() + 0.3)
        norm.bias.copy_(drawn((channels,), torch.float32, 6))
        norm.running_mean.copy_(drawn((channels,), torch.float32, 7))  # type: ignore[union-attr]
    return norm


def exact(
    x: Tensor, norm: nn.BatchNorm2d, residual: Tensor | None, relu: bool, g: Tensor
) -> list[Tensor]:
    """In float64: y, the gradients, the running statistics."""
    norm = copy.deepcopy(norm).double()
    ends = [t.double().detach().requires_grad_() for t in (x, residual) if t is not None]
    y = norm(ends[0])
    y = y if residual is None else y + ends[1]
    y = y.relu() if relu else y
    wanted = [*ends, norm.weight, norm.bias]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [y, *torch.autograd.grad(y, wanted, g.double()), norm.running_mean, norm.running_var]


def close(ours: Tensor, truth: Tensor, unit: float, *context: object) -> None:
    assert ours.isfinite().all(), context
    scale = float(truth.detach().abs().max())
    error = float((ours.double() - truth).abs().max())
    assert error <= unit * max(scale, 1e-3), (error / scale, context)


def check_values() -> None:
    """Runs where TRITON_INTERPRET=1: pixels and channels that fill no tile, and several parts."""
    cases = (
        ((2, 37, 5, 13), torch.float32),
        ((1, 130, 5, 3), torch.bfloat16),
    )
    for shape, dtype in cases:
        for with_residual, relu in itertools.product((True, False), repeat=2):
            # A ReLU's kink is no rounding error: the values at it are left out of the gradient.
            x, g = drawn(shape, dtype), drawn(shape, dtype, 1)
            residual = drawn(shape, dtype, 2) if with_residual else None
            norm = made_norm(shape[1])
            truth = exact(x, norm, residual, relu, g)
            away = truth[0].detach().abs() if relu else torch.ones(1)
            g = (
                torch.where((away > 0) & (away < 0.02), 0.0, g)
                .to(dtype)
                .contiguous(memory_format=CL)
            )
            truth = exact(x, norm, residual, relu, g)
            ends = [t.requires_grad_() for t in (x, residual) if t is not None]
            given = x if relu else x.contiguous()  # channels-first too
            y = norms._fused(given, residual, norm.weight, norm.bias, norm, relu)
            assert y.is_contiguous(memory_format=CL)
            incoming = g if with_residual else g.contiguous()
            ours = torch.autograd.grad(y, [*ends, norm.weight, norm.bias], incoming)
            unit = 1e-5 if dtype == torch.float32 else 2**-6
            found = [y, *ours, norm.running_mean, norm.running_var]
            for a, b in zip(found, truth, strict=True):
                assert a is not None
                close(a, b, unit, shape, dtype, with_residual, relu)
            assert norm.num_batches_tracked == 1


def check_large_means() -> None:
    """A mean of 1000 deviations: sums of squares would lose the variance in float32."""
    x, g = drawn((2, 8, 9, 9), torch.float32) + 1000, drawn((2, 8, 9, 9), torch.float32, 1)
    norm = made_norm(8)
    truth = exact(x, norm, None, False, g)
    y = norms._fused(x.requires_grad_(), None, norm.weight, norm.bias, norm, False)
    close(y, truth[0], 1e-4)
    close(torch.autograd.grad(y, x, g)[0], truth[1], 1e-3)


def check_an_outlying_first_part() -> None:
    """Means of parts are taken relative to the first one's."""
    x = drawn((1, 8, 40, 40), torch.float32)
    x[:, :, 0] += 3000
    mean, variance = op.moments(x, made_norm(8).weight)
    of_x, mean_of_x = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    close(mean, mean_of_x, 1e-5)
    close(variance, of_x, 1e-5)


def check_pointwise() -> None:
    """A 1×1 convolution with its statistics: several parts, the same bits again, every layout."""
    for (N, M, h, w), dtype in (
        ((64, 128, 23, 29), torch.bfloat16),
        ((128, 64, 5, 13), torch.float16),
        ((64, 192, 1, 2), torch.bfloat16),
    ):
        x, weight = drawn((2, N, h, w), dtype) + 3, drawn((M, N, 1, 1), dtype, 1) * 0.1
        of_norm = made_norm(M).weight
        expected = torch.nn.functional.conv2d(x.double(), weight.double())
        plain = weight[:, :, 0, 0]
        results = []
        for given, product in (
            (x, plain),
            (x.contiguous(), plain),  # channels-first
            (drawn((4, N, h, w), dtype)[::2].copy_(x), plain.t().contiguous().t()),
        ):
            y, mean, variance = op.pointwise(given, product, of_norm)
            assert y.is_contiguous(memory_format=CL)
            close(y, expected, 2**-7)
            of_y, mean_of_y = torch.var_mean(y.double(), (0, 2, 3), correction=0)
            close(mean, mean_of_y, 1e-6)
            close(variance, of_y, 1e-5)
            results.append((y, mean, variance))
        for again in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(again, results[0], strict=True))
        assert not of_norm._fastass_tickets.any()  # type: ignore[attr-defined]


def check_collected() -> None:
    """The batch's statistics go to the list and change nothing."""
    x, norm = drawn((2, 16, 5, 5), torch.float32), made_norm(16)
    before = copy.deepcopy(norm.state_dict())
    with collected() as seen:
        op.forward(x, norm, None, True)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    variance, mean = torch.var_mean(x.double(), (0, 2, 3))
    close(seen[0].mean, mean, 1e-5)
    close(seen[0].variance, variance, 1e-5)


def check_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual blocks as one node each: values, gradients and statistics of layer by layer."""
    monkeypatch.setattr(block, "_is_one_node", lambda x: True)
    torch.manual_seed(0)

    def layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> ConvNorm:
        weight = drawn((outputs, inputs, kernel, kernel), torch.float32, outputs + kernel)
        weight = (weight / inputs**0.5).requires_grad_()
        return ConvNorm(weight, stride, kernel // 2, 1, made_norm(outputs))

    network = (
        ([layer(5, 3, 1, 2), layer(3, 3, 3), layer(3, 8, 1)], layer(5, 8, 1, 2)),
        ([layer(8, 8, 3), layer(8, 8, 3)], None),
        ([layer(8, 8, 1)], layer(8, 8, 1)),
    )
    x = drawn((2, 5, 9, 11), torch.float32)

    def run(dtype: torch.dtype, one: bool) -> list[Tensor]:
        monkeypatch.setattr(op, "fits", lambda x, norm: one)
        layers = [f for given, s in network for f in [*given, *([s] if s else [])]]
        own = {id(f): f._replace(
            weight=f.weight.detach().to(dtype).requires_grad_(),
            norm=copy.deepcopy(f.norm).to(dtype),  # type: ignore[union-attr]
        ) for f in layers}  # fmt: skip
        start = out = x.to(dtype).requires_grad_()
        total = torch.zeros((), dtype=dtype)
        for given, shortcut in network:
            mine = None if shortcut is None else own[id(shortcut)]
            out = block.residual_block(out, [own[id(f)] for f in given], mine)
            assert (ungated(out) is not None) == one
            ramp = torch.linspace(-1, 2, out.numel(), dtype=dtype).view(out.shape)
            total = total + (out * ramp).sum()
        ends = [start]
        statistics = []
        for f in own.values():
            assert isinstance(f.norm, nn.BatchNorm2d)
            ends += [f.weight, f.norm.weight, f.norm.bias]
            statistics += [f.norm.running_mean, f.norm.running_var]
        return [out, *torch.autograd.grad(total, ends), *statistics]  # type: ignore[list-item]

    truth = run(torch.float64, False)
    with folded_once():
        found = run(torch.float32, True)
    for i, (a, b) in enumerate(zip(found, truth, strict=True)):
        close(a, b, 2e-4, i)


def test_in_the_interpreter() -> None:
    interpreted(__file__)


def test_it_is_off_and_for_training_norms_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    x, norm = drawn((2, 4, 5, 5), torch.bfloat16), made_norm(4)
    monkeypatch.setattr(op.dispatch, "resolve", lambda device: "triton")

    class OnGPU:
        device, dtype, shape = torch.device("cuda"), torch.bfloat16, x.shape
        numel = x.numel

    assert not op.fits(OnGPU(), norm)  # type: ignore[arg-type]
    kernels.use_fused_batch_norm(True)
    try:
        assert op.fits(OnGPU(), norm)  # type: ignore[arg-type]
        assert not op.fits(x, norm)
        for other in (norm.eval(), nn.SyncBatchNorm(4), nn.BatchNorm2d(4, affine=False)):
            assert not op.fits(OnGPU(), other)  # type: ignore[arg-type]
    finally:
        kernels.use_fused_batch_norm(False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("residual", "relu"), list(itertools.product((True, False), repeat=2)))
def test_on_a_gpu_it_rounds_no_more_than_torch(
    residual: bool, relu: bool, dtype: torch.dtype
) -> None:
    shape = (4, 256, 65, 129)
    x, added, g = (drawn(shape, dtype, i).cuda() for i in range(3))
    truth = None
    found = []
    for used in (True, False):
        norm = made_norm(256).cuda()
        truth = exact(x, norm, added if residual else None, relu, g)
        kernels.use_fused_batch_norm(used)
        try:
            ends = [t.detach().requires_grad_() for t in ([x, added] if residual else [x])]
            y = kernels.batch_norm(ends[0], norm, residual=ends[1] if residual else None, relu=relu)
            wanted = [*ends, norm.weight, norm.bias]
            found.append([y, *torch.autograd.grad(y, wanted, g)])
        finally:
            kernels.use_fused_batch_norm(False)
    assert truth is not None
    for a, b, c in zip(*found, truth, strict=False):
        limit = 2 * float((b.double() - c).norm()) + 1e-3 * float(c.norm())
        assert float((a.double() - c).norm()) <= limit


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # new memory holds NaN
    check_values()
    check_large_means()
    check_an_outlying_first_part()
    check_pointwise()
    check_collected()
    with pytest.MonkeyPatch.context() as patched:
        check_blocks(patched)
