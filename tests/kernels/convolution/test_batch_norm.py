"""The native batch norm of a training step against float64; torch's own error is the measure."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels import dispatch, native_library
from fastass.kernels.convolution import batch_norm as module
from fastass.kernels.convolution.batch_norm import batch_norm

SIZES = [(4, 16, 37, 65), (2, 19, 7, 9), (4, 96, 5, 9), (1, 5, 1, 3), (1, 40, 65, 33)]


@pytest.fixture(autouse=True)
def _native() -> Iterator[None]:
    reason = dispatch.available()["native"]
    if reason is not None:
        pytest.skip(reason)
    before = dispatch.choice()
    dispatch.use("auto")
    yield
    dispatch.use(before)


def inputs(size: tuple[int, ...], offset: float = 3.0) -> list[Tensor]:
    """x, a residual and the gradient of y."""
    torch.manual_seed(0)
    x, residual, gradient = (
        torch.randn(size).contiguous(memory_format=torch.channels_last) for _ in range(3)
    )
    return [2 * x + offset, residual, gradient]


def norm_of(channels: int) -> nn.BatchNorm2d:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    return norm


def plain(x: Tensor, norm: nn.Module, residual: Tensor | None, relu: bool) -> Tensor:
    y = norm(x) if residual is None else norm(x) + residual
    return F.relu(y) if relu else y


def everything(
    tensors: list[Tensor], norm: nn.BatchNorm2d, residual: bool, relu: bool, native: bool
) -> dict[str, Tensor]:
    """Output, gradients and statistics of one forward and backward."""
    x, shortcut, gradient = (t.detach().clone().requires_grad_() for t in tensors)
    add = shortcut if residual else None
    y = batch_norm(x, norm, residual=add, relu=relu) if native else plain(x, norm, add, relu)
    y.backward(gradient.detach())
    found = {"y": y.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    found |= {"mean": norm.running_mean, "variance": norm.running_var}
    if residual:
        found["residual"] = shortcut.grad
    return {name: t for name, t in found.items() if t is not None}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_against_float64(size: tuple[int, ...], residual: bool, relu: bool) -> None:
    tensors = inputs(size)
    assert module._fits(tensors[0], None, norm_of(size[1]))
    exact = everything(
        [t.double() for t in tensors], norm_of(size[1]).double(), residual, relu, native=False
    )
    torchs = everything(tensors, norm_of(size[1]), residual, relu, native=False)
    ours = everything(tensors, norm_of(size[1]), residual, relu, native=True)
    assert ours.keys() == exact.keys()
    for name, truth in exact.items():
        scale = truth.abs().max().item()
        allowed = 2 * (torchs[name].double() - truth).abs().max().item() + 1e-6 * scale
        assert (ours[name].double() - truth).abs().max().item() <= allowed, name


@pytest.mark.parametrize("isa", native_library.INSTRUCTION_SETS)
def test_every_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if native_library.INSTRUCTION_SETS.index(isa) > native_library.library().fastass_best_isa():
        pytest.skip(f"this processor lacks {isa}")
    monkeypatch.setenv("FASTASS_CPU_ISA", isa)
    tensors = inputs((2, 19, 7, 9))
    ours = everything(tensors, norm_of(19), True, True, native=True)
    torchs = everything(tensors, norm_of(19), True, True, native=False)
    for name, tensor in torchs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_mean_far_from_zero_does_not_cancel() -> None:
    tensors = inputs((2, 16, 33, 17), offset=1000.0)
    exact = everything(
        [t.double() for t in tensors], norm_of(16).double(), False, False, native=False
    )
    ours = everything(tensors, norm_of(16), False, False, native=True)
    assert torch.allclose(ours["variance"].double(), exact["variance"], rtol=1e-5)


def test_a_gradient_of_another_layout_and_a_frozen_affine() -> None:
    x, shortcut, gradient = inputs((2, 16, 9, 7))
    norm = norm_of(16).requires_grad_(False)
    expected, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    plain(expected, norm, shortcut, True).backward(gradient)
    batch_norm(ours, norm, residual=shortcut, relu=True).backward(gradient.contiguous())
    assert ours.grad is not None
    assert expected.grad is not None
    assert torch.allclose(ours.grad, expected.grad, atol=1e-5)
    assert norm.weight.grad is None


def test_the_sums_do_not_depend_on_the_number_of_threads() -> None:
    before, tensors = torch.get_num_threads(), inputs((4, 24, 37, 29))
    try:
        runs = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            runs.append(everything(tensors, norm_of(24), True, True, native=True))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(run[name], tensor) for name, tensor in runs[0].items())


def test_nan_and_infinity_reach_the_loss() -> None:
    for bad in (float("nan"), float("inf")):
        x = inputs((1, 16, 5, 5))[0]
        x[0, 3, 2, 2] = bad
        y = batch_norm(x, norm_of(16), relu=True)
        assert y[:, 3].isnan().all()
        assert y[:, 4].isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, norm: (x.contiguous(), norm),
        lambda x, norm: (x.double(), norm.double()),
        lambda x, norm: (x, norm.eval()),
        lambda x, norm: (x, nn.BatchNorm2d(16, momentum=None)),
        lambda x, norm: (x, nn.BatchNorm2d(16, affine=False)),
        lambda x, norm: (x, nn.BatchNorm2d(16, track_running_stats=False)),
    ],
)
def test_what_the_routine_does_not_take_is_torchs(change: object) -> None:
    x, norm = change(inputs((2, 16, 9, 7))[0], norm_of(16))  # type: ignore[operator]
    assert not module._fits(x, None, norm)
    torch.testing.assert_close(batch_norm(x, norm, relu=True), F.relu(norm(x)))


def test_one_value_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_norm(torch.randn(1, 16, 1, 1), norm_of(16), relu=True)


def test_counts_the_batches() -> None:
    norm = norm_of(16)
    batch_norm(inputs((2, 16, 9, 7))[0], norm)
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_and_relu_as_one_kernel_of_a_gpu(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reference here: the same bits, forward and backward, as the operators one by one."""
    dispatch.use("reference")
    monkeypatch.setattr(module, "_is_one_kernel", lambda *of: True)
    tensors = [t.to(dtype) for t in inputs(SIZES[0])]
    ours, theirs = (
        everything(tensors, norm_of(16).to(dtype), True, True, native) for native in (True, False)
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value is not None
        assert torch.equal(ours[name], value), name


def test_where_sum_and_relu_are_one_kernel() -> None:
    y, norm = torch.randn(1, 16, 4, 4), norm_of(16)
    assert not module._is_one_kernel(y, y, norm)  # on a CPU the other routine takes it
