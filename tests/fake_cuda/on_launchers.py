"""Every launcher of the kernels on the fake CUDA device, against what its fake promises."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from fake_step import CUDA
from recorder import Recorder, recording
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode

from fastass import kernels

N, C, M, SMALL, FULL = 2048, 19, 1024, (91, 161), (720, 1280)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def without_data() -> Iterator[None]:
    with FakeTensorMode():
        yield


def a_map(batch: int, channels: int, dtype: torch.dtype, last: bool, grad: bool = True) -> Tensor:
    shape = (batch, channels, *SMALL)
    layout = torch.channels_last if last else torch.contiguous_format
    made = torch.empty(shape, dtype=dtype, device=CUDA, memory_format=layout)
    return made.requires_grad_(grad)


def labels(batch: int) -> Tensor:
    return torch.empty(batch, *FULL, dtype=torch.uint8, device=CUDA)


def backward(*outputs: Tensor) -> None:
    given = [output for output in outputs if output.requires_grad]
    torch.autograd.backward(given, [torch.ones_like(output) for output in given])


def class_mean(batch: int, dtype: torch.dtype, last: bool) -> None:
    backward(*kernels.class_mean(a_map(batch, N, dtype, last), labels(batch), C))


def pixel_discriminator_loss(batch: int, dtype: torch.dtype, last: bool) -> None:
    shapes = ((M, N), (M,), (2 * C, M), (2 * C,))
    for domain, adversarial, trained in product((0, 1), (True, False), (True, False)):
        weights = [torch.empty(s, dtype=dtype, device=CUDA).requires_grad_(trained) for s in shapes]
        features = a_map(batch, N, dtype, last, grad=adversarial)
        backward(
            *kernels.pixel_discriminator_loss(
                features, labels(batch), *weights, domain=domain, adversarial=adversarial
            )
        )


def upsample_cross_entropy(batch: int, dtype: torch.dtype, last: bool) -> None:
    for corners, grad in product((True, False), (True, False)):
        scores = a_map(batch, C, dtype, last, grad)
        loss = kernels.upsample_cross_entropy(scores, labels(batch), align_corners=corners)
        both = kernels.upsample_cross_entropy(
            scores, labels(batch), align_corners=corners, return_probabilities=True
        )
        if grad:
            backward(loss, *both)


def upsample_softmax(batch: int, dtype: torch.dtype, last: bool) -> None:
    backward(kernels.upsample_softmax(a_map(batch, C, dtype, last), FULL, align_corners=True))


def upsample_confusion(batch: int, dtype: torch.dtype, last: bool) -> None:
    kernels.upsample_confusion(a_map(batch, C, dtype, last), labels(batch), align_corners=True)


def upsample_pseudo_labels(batch: int, dtype: torch.dtype, last: bool) -> None:
    scores = a_map(batch, C, dtype, last, grad=False)
    kernels.upsample_pseudo_labels(scores, FULL, 0.968, align_corners=True)


def convolution_epilogue(batch: int, dtype: torch.dtype, last: bool) -> None:
    x, other = (a_map(batch, 1024, dtype, last, grad=False) for _ in range(2))
    bias = torch.empty(1024, device=CUDA)
    for shift, residual, relu in product((bias, None), (other, None), (True, False)):
        kernels.convolution_epilogue_(x, shift, residual, relu=relu)
        kernels.convolution_epilogue_(x, None, residual, relu=False, gate=other)


CASES: tuple[Callable[[int, torch.dtype, bool], None], ...] = (
    class_mean,
    pixel_discriminator_loss,
    upsample_cross_entropy,
    upsample_softmax,
    upsample_confusion,
    upsample_pseudo_labels,
    convolution_epilogue,
)


def run(case: Callable[[int, torch.dtype, bool], None], *arguments: object) -> Recorder:
    with recording() as recorder:
        case(*arguments)  # type: ignore[arg-type]
    return recorder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_launchers_return_what_their_fakes_promise(case: Callable) -> None:
    for batch, dtype, last in product((1, 8), DTYPES, (True, False)):
        recorder = run(case, batch, dtype, last)
        # Channels first is allowed here: it is what is passed in.
        faults = [f for f in recorder.faults if "strides" not in f or "its fake" in f]
        assert not faults, (batch, dtype, last)
        assert recorder.launches, "no Triton kernel was launched"


def test_every_operator_has_a_case() -> None:
    seen = {
        op.name.split(".")[0] for case in CASES for op in run(case, 1, torch.bfloat16, True).ops
    }
    on_gpu = {name for name, made in OPDEFS.items() if "cuda" in made._backend_fns}
    on_gpu = {name for name in on_gpu if name.startswith("fastass::")}
    assert on_gpu <= seen, f"add a case for {on_gpu - seen}"
