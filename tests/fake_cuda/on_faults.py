"""The recorder finds what would be wrong on a GPU: each fault, committed on purpose."""

from collections.abc import Callable, Iterator

import pytest
import torch
from fake_step import CUDA
from recorder import differences, recording
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode


@pytest.fixture(autouse=True)
def without_data() -> Iterator[None]:
    with FakeTensorMode():
        yield


def nhwc() -> Tensor:
    shape = (2, 8, 32, 32)
    return torch.empty(shape, device=CUDA).contiguous(memory_format=torch.channels_last)


def faults(call: Callable[[], object]) -> str:
    with recording() as recorder:
        call()
    return "\n".join(recorder.faults)


def test_sound_code_has_no_fault() -> None:
    weight = torch.empty(4, 8, 3, 3, device=CUDA).contiguous(memory_format=torch.channels_last)
    weight.requires_grad_()
    assert not faults(lambda: torch.conv2d(nhwc(), weight).relu().sum().backward())


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda: nhwc().cpu(), "copies from the GPU to the CPU"),
        (lambda: torch.zeros(4).to(CUDA), "copies from the CPU to the GPU"),
        (lambda: nhwc().contiguous(), "map (2, 8, 32, 32) has strides"),
        (lambda: torch.conv2d(nhwc().contiguous(), nhwc()[:, :, :3, :3]), "reads (2, 8, 32, 32)"),
    ],
)
def test_faults(call: Callable[[], object], fault: str) -> None:
    assert fault in faults(call)


def test_waiting_for_a_value() -> None:
    with pytest.raises(DataDependentOutputException):
        faults(lambda: nhwc().sum().item())


@pytest.mark.parametrize("call", [lambda x: x.nonzero(), lambda x: x[x > 0]])
def test_shapes_that_depend_on_values(call: Callable[[Tensor], object]) -> None:
    with pytest.raises(Exception, match=r"nonzero|DynamicOutputShape"):
        faults(lambda: call(nhwc()))


def test_differences_of_a_launcher_and_its_fake() -> None:
    a = torch.empty(2, 3, device=CUDA)
    assert not list(differences([a], [torch.empty(2, 3, device=CUDA)], ()))
    assert "returns 1 tensors, its fake 0" in list(differences([a], [], ()))
    for other, what in (
        (torch.empty(3, 2, device=CUDA), "shape"),
        (torch.empty(2, 3, device=CUDA, dtype=torch.float16), "dtype"),
        (torch.empty(2, 3), "device"),
        (torch.empty(3, 2, device=CUDA).t(), "strides"),
    ):
        assert any(what in found for found in differences([a], [other], ()))
    assert any("shares memory" in found for found in differences([a], [a], (a,)))
    assert any("shares memory" in found for found in differences([a, a[0]], [a, a[0]], ()))


def test_a_launch_without_an_argument_and_with_too_large_a_grid() -> None:
    from fastass.kernels.convolution.epilogue_gpu import _kernel

    def launch(grid: tuple[int, ...], **more: object) -> None:
        x = nhwc()
        values = dict.fromkeys(("x", "bias", "residual", "gate"), x)
        sizes = {"rows": 1, "columns": 1, "channels": 1}
        flags = {
            "LAST": True,
            "BIAS": True,
            "RESIDUAL": False,
            "RELU": True,
            "GATE": False,
            "ROWS": 16,
            "COLUMNS": 16,
        }
        _kernel[grid](**{**values, **sizes, **flags, **more})

    assert "has the grid (1, 70000)" in faults(lambda: launch((1, 70000)))
    assert "gets bias on cpu" in faults(lambda: launch((1,), bias=torch.empty(3)))
    with recording(), pytest.raises(TypeError, match="without x"):
        _kernel[(1,)](bias=nhwc())
