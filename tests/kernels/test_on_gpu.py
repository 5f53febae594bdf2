"""The Triton kernels on a GPU, at the sizes of training: values, gradients, bits, no waiting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from gpu_host.waits import waiting_is_an_error
from torch import Tensor

from fastass import kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = "cuda"
B, N, M, C = 2, 256, 128, 19
SMALL, FULL = (91, 161), (720, 1280)


@dataclass(frozen=True)
class Case:
    """An operator and what it differentiates: call(labels, *tensors) → outputs."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., tuple[Tensor, ...]]
    differentiable: bool = True


def class_mean(labels: Tensor, features: Tensor) -> tuple[Tensor, ...]:
    return kernels.class_mean(features, labels, C)


def pixel_discriminator_loss(labels: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    features, weight1, bias1, weight2, bias2 = tensors
    weights = (weight1 * N**-0.5, bias1, weight2 * M**-0.5, bias2)
    return kernels.pixel_discriminator_loss(features, labels, *weights, domain=0, adversarial=True)


def upsample_cross_entropy(labels: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
    return kernels.upsample_cross_entropy(
        scores, labels, align_corners=True, return_probabilities=True
    )


def upsample_softmax(labels: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
    return (kernels.upsample_softmax(scores, FULL, align_corners=False),)


def upsample_confusion(labels: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
    return (kernels.upsample_confusion(scores, labels, align_corners=True),)


FEATURES, SCORES = (B, N, *SMALL), (B, C, *SMALL)
CASES = [
    Case("class_mean", (FEATURES,), class_mean),
    Case(
        "pixel_discriminator_loss",
        (FEATURES, (M, N), (M,), (2 * C, M), (2 * C,)),
        pixel_discriminator_loss,
    ),
    Case("upsample_cross_entropy", (SCORES,), upsample_cross_entropy),
    Case("upsample_softmax", (SCORES,), upsample_softmax),
    Case("upsample_confusion", (SCORES,), upsample_confusion, differentiable=False),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def inputs(case: Case, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Labels in regions, about 15 % ignored; normal tensors, maps in channels-last memory."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, C, (B, 1, 12, 20), generator=generator)
    coarse[torch.rand(coarse.shape, generator=generator) < 0.15] = 255
    labels = torch.nn.functional.interpolate(coarse.float(), FULL)[:, 0].to(torch.uint8)
    tensors = [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in case.shapes]
    return labels.to(DEVICE), [
        t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors
    ]


@contextmanager
def using(choice: str) -> Iterator[None]:
    kernels.use(choice)
    try:
        yield
    finally:
        kernels.use("auto")


def run(case: Case, labels: Tensor, tensors: list[Tensor], choice: str = "auto") -> list[Tensor]:
    """Outputs, then the gradients of a weighted sum of those that have one."""
    leaves = [tensor.detach().requires_grad_(case.differentiable) for tensor in tensors]
    with using(choice):
        outputs = case.call(labels, *leaves)
    if not case.differentiable:
        return list(outputs)
    generator = torch.Generator().manual_seed(1)
    given, cotangents = [], []
    for output in outputs:
        if output.requires_grad:
            given.append(output)
            weight = torch.randn(output.shape, generator=generator, dtype=torch.float64)
            cotangents.append(weight.to(DEVICE, output.dtype))
    gradients = torch.autograd.grad(given, leaves, cotangents)
    return [output.detach() for output in outputs] + list(gradients)


def norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())


def error(actual: Tensor, truth: Tensor) -> float:
    return norm(actual.double() - truth.double())


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_twice_that_of_plain_torch(case: Case, dtype: torch.dtype) -> None:
    labels, tensors = inputs(case, dtype)
    truth = run(case, labels, [tensor.double() for tensor in tensors], "reference")
    plain = run(case, labels, tensors, "reference")
    for ours, theirs, exact in zip(run(case, labels, tensors), plain, truth, strict=True):
        rounding = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        assert error(ours, exact) <= 2 * error(theirs, exact) + rounding * norm(exact)


@every_case
def test_the_same_bits_every_time(case: Case) -> None:
    labels, tensors = inputs(case, torch.bfloat16)
    first = run(case, labels, tensors)
    for _ in range(3):
        again = run(case, labels, tensors)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@every_case
def test_nothing_waits_for_the_gpu(case: Case) -> None:
    labels, tensors = inputs(case, torch.bfloat16)
    leaves = [tensor.requires_grad_(case.differentiable) for tensor in tensors]
    cotangents = None
    for compiled in (False, True):  # the first pass compiles
        with waiting_is_an_error(compiled):
            outputs = case.call(labels, *leaves)
            given = [output for output in outputs if output.requires_grad]
            if given:
                cotangents = cotangents or [torch.ones_like(output) for output in given]
                torch.autograd.grad(given, leaves, cotangents)


@every_case
def test_unknown_labels_do_what_they_do_in_the_reference(case: Case) -> None:
    labels, tensors = inputs(case, torch.float32)
    labels[1, 100:300, 200:400] = 77
    ours, theirs = run(case, labels, tensors), run(case, labels, tensors, "reference")
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        scale = float(b.double().nan_to_num().abs().max())
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3 * scale, equal_nan=True)


@every_case
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_as_one_graph(case: Case) -> None:
    labels, tensors = inputs(case, torch.bfloat16)
    compiled = Case(
        case.name, case.shapes, torch.compile(case.call, fullgraph=True), case.differentiable
    )
    for a, b in zip(run(compiled, labels, tensors), run(case, labels, tensors), strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-2 * scale)
