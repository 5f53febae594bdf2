"""upsample_cross_entropy with pixel weights: every implementation against float64 torch."""

from typing import Any

import pytest
import torch
from child import interpreted
from torch import Tensor
from torch.nn import functional

from fastass import kernels
from fastass.kernels import PixelWeights, native_library, upsample_cross_entropy

SHAPES = [  # B, C, h, w, H, W
    (2, 19, 33, 65, 256, 512),
    (2, 5, 7, 9, 50, 70),
    (1, 64, 5, 33, 40, 264),
    (1, 19, 3, 4, 100, 70),
    (3, 2, 9, 11, 4, 5),
    (1, 3, 1, 1, 6, 7),
    (1, 4, 3, 1, 1, 5),
]
Given = tuple[Tensor, Tensor, PixelWeights]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Given:
    batch, classes, in_height, in_width, height, width = shape
    g = torch.Generator().manual_seed(sum(shape))
    scores = 2 * torch.randn(batch, classes, in_height, in_width, generator=g)
    labels = torch.randint(0, classes, (batch, height, width), generator=g).to(torch.uint8)
    labels[torch.rand(labels.shape, generator=g) < 0.15] = 255
    full = torch.rand(labels.shape, generator=g) < 0.4
    weights = PixelWeights(full, torch.rand(batch, generator=g))
    return scores.to(dtype).contiguous(memory_format=torch.channels_last), labels, weights


def plain(scores: Tensor, labels: Tensor, weights: PixelWeights, align: bool) -> list[Tensor]:
    """Loss and gradient in the dtype of scores."""
    scores = scores.detach().requires_grad_()
    wide = functional.interpolate(
        scores, size=labels.shape[1:], mode="bilinear", align_corners=align
    )
    each = functional.cross_entropy(wide, labels.long(), ignore_index=255, reduction="none")
    w = torch.stack([torch.where(f, 1.0, s) for f, s in zip(*weights, strict=True)])
    loss = (w.to(each.dtype) * each).sum() / labels.numel()
    return [loss.detach(), *torch.autograd.grad(loss, scores)]


def ours(scores: Tensor, labels: Tensor, weights: PixelWeights, align: bool) -> list[Tensor]:
    scores = scores.detach().requires_grad_()
    loss = upsample_cross_entropy(scores, labels, align_corners=align, weights=weights)
    return [loss.detach(), *torch.autograd.grad(loss, scores)]


def assert_as_good_as_torch(given: Given, align: bool) -> None:
    """Errors against float64 are at most twice those of plain torch in the same precision."""
    scores, labels, weights = given
    truths = plain(scores.double(), labels, weights, align)
    torch_s, mine = plain(scores, labels, weights, align), ours(scores, labels, weights, align)
    for truth, theirs, value in zip(truths, torch_s, mine, strict=True):
        assert not value.isnan().any()
        rounding = torch.finfo(torch.float32).eps * float(truth.norm())
        allowed = max(2 * float((theirs.double() - truth).norm()), 2 * rounding)
        assert float((value.double() - truth).norm()) <= allowed


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("align", [False, True])
def test_native_is_as_accurate_as_torch(shape: tuple[int, ...], align: bool) -> None:
    assert_as_good_as_torch(inputs(shape), align)


@pytest.mark.parametrize("instruction_set", native_library.INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_instruction_sets_and_dtypes(
    instruction_set: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = native_library.library().fastass_best_isa()
    if native_library.INSTRUCTION_SETS.index(instruction_set) > best:
        pytest.skip(f"this processor has no {instruction_set}")
    monkeypatch.setenv("FASTASS_CPU_ISA", instruction_set)
    assert_as_good_as_torch(inputs((2, 19, 13, 21, 100, 160), dtype), False)


def test_the_reference_has_the_gradient() -> None:
    scores, labels, weights = inputs((2, 3, 3, 4, 8, 10))
    kernels.use("reference")
    given = scores.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: upsample_cross_entropy(s, labels, align_corners=True, weights=weights), (given,)
    )


@pytest.mark.parametrize("choice", ["reference", "native"])
def test_weights_of_one_are_the_mean_over_all_pixels(choice: str) -> None:
    """Ignored pixels count in the denominator; weights of zero leave nothing."""
    scores, labels, weights = inputs((2, 5, 7, 9, 50, 70))
    kernels.use(choice)
    unweighted = upsample_cross_entropy(scores, labels, align_corners=True)
    share = (labels != 255).float().mean()
    for full, scale in ((True, 0.0), (False, 1.0)):
        ones = PixelWeights(torch.full_like(weights.full, full), torch.full((2,), scale))
        loss = upsample_cross_entropy(scores, labels, align_corners=True, weights=ones)
        torch.testing.assert_close(loss, unweighted * share)
    nothing = PixelWeights(torch.zeros_like(weights.full), torch.zeros(2))
    loss, gradient = ours(scores, labels, nothing, True)
    assert loss == 0
    assert gradient.count_nonzero() == 0


def test_ignored_images_and_images_of_no_weight() -> None:
    scores, labels, weights = inputs((3, 5, 7, 9, 50, 70))
    labels[0] = 255
    weights.full[1], weights.scale[1] = False, 0.0
    loss, gradient = ours(scores, labels, weights, True)
    assert loss > 0
    assert gradient[:2].count_nonzero() == 0
    assert gradient[2].count_nonzero() > 0
    labels.fill_(255)
    loss, gradient = ours(scores, labels, weights, True)
    assert loss == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("spread", [50.0, 1000.0])
def test_far_apart_scores(spread: float) -> None:
    scores, labels, weights = inputs((1, 5, 7, 9, 50, 70))
    truth = plain((spread * scores).double(), labels, weights, False)
    mine = ours(spread * scores, labels, weights, False)
    torch.testing.assert_close(mine[0].double(), truth[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(mine[1].double(), truth[1], rtol=0, atol=2e-7 * spread)


def test_layouts_and_threads_do_not_matter() -> None:
    scores, labels, weights = inputs((2, 19, 13, 21, 100, 160))
    expected = ours(scores, labels, weights, True)
    strided = torch.empty(2, 100, 320, dtype=torch.bool)[:, :, ::2].copy_(weights.full)
    apart = torch.empty(4)[::2].copy_(weights.scale)
    wide = torch.empty(2, 38, 13, 42)[:, ::2, :, ::2].copy_(scores)
    before = torch.get_num_threads()
    try:
        for given, threads in ((wide, before), (scores.contiguous(), 1), (scores, 64)):
            torch.set_num_threads(threads)
            assert all(
                map(torch.equal, ours(given, labels, PixelWeights(strided, apart), True), expected)
            )
    finally:
        torch.set_num_threads(before)


def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        made = empty(*args, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)
    for shape in SHAPES[1:]:
        assert not any(value.isnan().any() for value in ours(*inputs(shape), True)), shape


def test_loss_and_probabilities_share_one_backward() -> None:
    scores, labels, weights = inputs((2, 5, 7, 9, 50, 70))
    found = []
    for choice, given in (("native", scores), ("reference", scores.double())):
        kernels.use(choice)
        given = given.detach().requires_grad_()
        loss, p = upsample_cross_entropy(
            given, labels, align_corners=True, return_probabilities=True, weights=weights
        )
        (3 * loss + p.square().mean()).backward()
        found.append(given.grad)
    assert found[0] is not None
    torch.testing.assert_close(found[0].double(), found[1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("choice", ["reference", "native"])
def test_bad_weights_are_refused(choice: str) -> None:
    scores, labels, weights = inputs((2, 5, 7, 9, 50, 70))
    kernels.use(choice)
    wrong = {
        r"weights\.full: got torch\.uint8": weights._replace(full=weights.full.to(torch.uint8)),
        r"weights\.full: got shape \(2, 49, 70\)": weights._replace(full=weights.full[:, 1:]),
        r"weights\.scale: got shape \(1,\)": weights._replace(scale=weights.scale[:1]),
        r"weights\.scale: got torch\.int64": weights._replace(scale=weights.scale.long()),
        r"weights\.scale: got device meta": weights._replace(scale=weights.scale.to("meta")),
    }
    for message, given in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            upsample_cross_entropy(scores, labels, align_corners=True, weights=given)
    labels[0, -1, -1] = 5
    with pytest.raises(ValueError, match="labels: got"):
        upsample_cross_entropy(scores, labels, align_corners=True, weights=weights)


def test_the_operator_is_registered_and_compiles() -> None:
    scores, labels, weights = inputs((2, 5, 7, 9, 50, 70))
    scores.requires_grad_()
    arguments = (scores, labels, True, 255, True, False, *weights)
    torch.library.opcheck(torch.ops.fastass.upsample_cross_entropy, arguments)

    def step(scores: Tensor) -> Tensor:
        return upsample_cross_entropy(scores, labels, align_corners=True, weights=weights)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(step(scores), scores)
    (gradient,) = torch.autograd.grad(compiled(scores), scores)
    torch.testing.assert_close(gradient, expected)


INTERPRETED = """
import torch
from fastass.kernels import PixelWeights
from fastass.kernels.upsample import cross_entropy as entropy
from fastass.kernels.upsample import softmax_gpu as softmax

for shape in ((2, 5, 3, 7, 9, 22), (1, 3, 1, 1, 3, 4), (1, 2, 3, 20, 1, 41), (2, 33, 3, 4, 5, 9)):
    for align in (False, True):
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            batch, classes, _, _, height, width = shape
            scores = torch.randn(shape[:4]).to(dtype).contiguous(memory_format=torch.channels_last)
            labels = torch.randint(0, classes, (batch, height, width), dtype=torch.uint8)
            labels[torch.rand(labels.shape) < 0.2] = 255
            weights = PixelWeights(torch.rand(labels.shape) < 0.4, torch.rand(batch))
            exact = scores.double().requires_grad_()
            truth, P = entropy.reference(
                exact, labels, align_corners=align, return_probabilities=True, weights=weights
            )
            (of_loss,) = torch.autograd.grad(truth * labels.numel(), exact)
            loss, _, gradient, p = softmax.forward(
                scores, labels, (height, width), align, 255, True, True, *weights
            )
            close = dict(rtol=2e-6, atol=3e-6)
            torch.testing.assert_close(loss, truth.detach() * labels.numel(), **close)
            torch.testing.assert_close(gradient.double(), of_loss, **close)
            rough = dict(rtol=1e-2, atol=1e-3) if dtype == torch.bfloat16 else close
            torch.testing.assert_close(p.double(), P.detach(), **rough)
            mean, pixels, *_ = entropy._cuda(scores, labels, align, 255, True, False, *weights)
            assert pixels == labels.numel()
            torch.testing.assert_close(mean.double(), truth.detach(), **close)

labels[0, 0, :5] = 200
for ignored in (255, 1):
    loss, *_ = softmax.forward(
        scores, labels, (height, width), True, ignored, True, False, *weights
    )
    assert loss.isnan()
"""


def test_triton_in_the_interpreter() -> None:
    interpreted("-c", INTERPRETED)
