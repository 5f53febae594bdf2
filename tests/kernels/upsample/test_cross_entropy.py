"""upsample_cross_entropy and upsample_softmax: every implementation against float64 torch."""

from typing import Any

import pytest
import torch
from child import interpreted
from torch import Tensor
from torch.nn import functional

from fastass import kernels
from fastass.kernels import native_library, upsample_cross_entropy, upsample_softmax

SHAPES = [  # B, C, h, w, H, W
    (1, 19, 91, 161, 720, 1280),
    (1, 19, 65, 129, 512, 1024),
    (2, 5, 7, 9, 50, 70),
    (1, 64, 5, 33, 40, 264),
    (1, 19, 3, 4, 100, 70),  # more rows and columns in a cell than are in flight together
    (3, 2, 9, 11, 4, 5),  # towards fewer pixels
    (1, 3, 1, 1, 6, 7),
    (1, 4, 3, 1, 1, 5),
]
SMALL = (2, 19, 13, 21, 100, 160)


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    batch, classes, in_height, in_width, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    scores = torch.randn(batch, classes, in_height, in_width, generator=generator)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator).to(torch.uint8)
    labels[torch.rand(batch, height, width, generator=generator) < 0.15] = 255
    return (2 * scores).to(dtype).contiguous(memory_format=torch.channels_last), labels


def plain(
    scores: Tensor, labels: Tensor, align_corners: bool, cotangent: Tensor, p_dtype: torch.dtype
) -> dict[str, Tensor]:
    """Loss, P and both gradients by plain torch, in the dtype of scores."""
    scores = scores.detach().requires_grad_()
    wide = functional.interpolate(
        scores, size=labels.shape[1:], mode="bilinear", align_corners=align_corners
    )
    loss = functional.cross_entropy(wide, labels.long(), ignore_index=255)
    p = wide.softmax(1)
    (of_loss,) = torch.autograd.grad(loss, scores, retain_graph=True)
    (of_p,) = torch.autograd.grad(p, scores, cotangent.to(scores.dtype))
    p = p.detach().to(p_dtype)
    return {"loss": loss.detach(), "P": p, "gradient": of_loss, "gradient through P": of_p}


def ours(
    scores: Tensor, labels: Tensor, align_corners: bool, cotangent: Tensor
) -> dict[str, Tensor]:
    scores = scores.detach().requires_grad_()
    loss, p = upsample_cross_entropy(
        scores, labels, align_corners=align_corners, return_probabilities=True
    )
    (of_loss,) = torch.autograd.grad(loss, scores, retain_graph=True)
    (of_p,) = torch.autograd.grad(p, scores, cotangent)
    return {"loss": loss.detach(), "P": p.detach(), "gradient": of_loss, "gradient through P": of_p}


def error(value: Tensor, truth: Tensor) -> float:
    assert not value.isnan().any()
    return float((value.double() - truth).norm())


def assert_as_good_as_torch(
    shape: tuple[int, ...], align_corners: bool, dtype: torch.dtype = torch.float32
) -> None:
    """Errors against float64 are at most twice those of plain torch in the same precision."""
    scores, labels = inputs(shape, dtype)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(*shape[:2], *shape[4:], generator=generator).to(dtype)
    truth = plain(scores.double(), labels, align_corners, cotangent, torch.float64)
    torch_s = plain(scores, labels, align_corners, cotangent, dtype)
    mine = ours(scores, labels, align_corners, cotangent)
    for name, expected in truth.items():
        rounding = torch.finfo(torch.float32).eps * float(expected.norm())
        allowed = max(2 * error(torch_s[name], expected), 2 * rounding)
        assert error(mine[name], expected) <= allowed, name
        assert mine[name].dtype == (torch.float32 if name == "loss" else dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_native_is_as_accurate_as_torch(shape: tuple[int, ...], align_corners: bool) -> None:
    assert_as_good_as_torch(shape, align_corners)


@pytest.mark.parametrize("instruction_set", native_library.INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_instruction_sets_and_dtypes(
    instruction_set: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (
        native_library.INSTRUCTION_SETS.index(instruction_set)
        > native_library.library().fastass_best_isa()
    ):
        pytest.skip(f"this processor has no {instruction_set}")
    monkeypatch.setenv("FASTASS_CPU_ISA", instruction_set)
    assert_as_good_as_torch(SMALL, False, dtype)
    assert_as_good_as_torch((2, 3, 7, 9, 50, 70), True, dtype)


@pytest.mark.parametrize("spread", [50.0, 1000.0])
def test_far_apart_scores(spread: float) -> None:
    """Corners so far apart that the cell's largest score bounds its pixels badly."""
    scores, labels = inputs((1, 5, 7, 9, 50, 70))
    cotangent = torch.randn(1, 5, 50, 70)
    truth = plain((spread * scores).double(), labels, False, cotangent, torch.float64)
    mine = ours(spread * scores, labels, False, cotangent)
    torch.testing.assert_close(mine["loss"].double(), truth["loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        mine["gradient"].double(), truth["gradient"], rtol=0, atol=2e-7 * spread
    )


def test_minus_infinity_masks_a_class_and_nan_stays() -> None:
    scores, labels = inputs((1, 5, 7, 9, 50, 70))
    labels[labels == 2] = 0
    kept = torch.tensor([0, 1, 3, 4])
    masked = scores.clone()
    masked[:, 2] = float("-inf")
    lookup = torch.zeros(256, dtype=torch.uint8)
    lookup[kept], lookup[255] = torch.arange(4, dtype=torch.uint8), 255
    loss, p = upsample_cross_entropy(masked, labels, align_corners=True, return_probabilities=True)
    fewer = upsample_cross_entropy(scores[:, kept], lookup[labels.long()], align_corners=True)
    torch.testing.assert_close(loss, fewer)
    assert p[:, 2].max() < 1e-30
    for poison in ("nan", "inf"):
        scores[0, 1, 2, 3] = float(poison)
        assert upsample_cross_entropy(scores, labels, align_corners=True).isnan()


def test_loss_and_probabilities_share_one_backward() -> None:
    scores, labels = inputs(SMALL)
    cotangent = torch.randn(2, 19, 100, 160)
    results: list[Tensor] = []
    for choice, given in (("native", scores), ("reference", scores.double())):
        kernels.use(choice)
        given = given.detach().requires_grad_()
        loss, p = upsample_cross_entropy(
            given, labels, align_corners=True, return_probabilities=True
        )
        (3 * loss + (p * cotangent).mean()).backward()
        assert given.grad is not None
        results.append(given.grad)
    torch.testing.assert_close(results[0].double(), results[1], rtol=1e-5, atol=1e-9)


def test_softmax_alone() -> None:
    scores, labels = inputs(SMALL)
    scores.requires_grad_()
    _, expected = upsample_cross_entropy(
        scores, labels, align_corners=False, return_probabilities=True
    )
    p = upsample_softmax(scores, (100, 160), align_corners=False)
    assert torch.equal(p, expected)
    assert p.is_contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(2, 19, 160, 100).transpose(2, 3)  # any strides come back
    (gradient,) = torch.autograd.grad(p, scores, cotangent)
    (dense,) = torch.autograd.grad(expected, scores, cotangent.contiguous())
    assert torch.equal(gradient, dense)


def test_layouts_and_threads_do_not_matter() -> None:
    scores, labels = inputs(SMALL)
    cotangent = torch.randn(2, 19, 100, 160)
    expected = ours(scores, labels, True, cotangent)
    wide = torch.empty(2, 38, 13, 42)[:, ::2, :, ::2].copy_(scores)
    before = torch.get_num_threads()
    try:
        for given, threads in ((wide, before), (scores.contiguous(), 1), (scores, 3), (scores, 64)):
            torch.set_num_threads(threads)
            for name, value in ours(given, labels, True, cotangent).items():
                assert torch.equal(value, expected[name]), (name, threads)
    finally:
        torch.set_num_threads(before)


def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory that holds NaN comes back without."""
    empty = torch.empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        made = empty(*args, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)
    for shape in SHAPES[2:]:
        scores, labels = inputs(shape)
        results = ours(scores, labels, True, torch.ones(*shape[:2], *shape[4:]))
        assert not any(value.isnan().any() for value in results.values()), shape


def test_ignored_and_absent() -> None:
    scores, labels = inputs((2, 5, 7, 9, 50, 70))
    scores.requires_grad_()
    labels[0] = 255  # one whole image
    loss = upsample_cross_entropy(scores, labels, align_corners=True)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[0].count_nonzero() == 0
    assert gradient[1].count_nonzero() > 0
    labels.fill_(255)
    loss = upsample_cross_entropy(scores, labels, align_corners=True)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss == 0
    assert gradient.count_nonzero() == 0
    labels.fill_(2)
    assert upsample_cross_entropy(scores, labels, align_corners=True, ignore_index=2) == 0


@pytest.mark.parametrize("choice", ["reference", "native"])
def test_label_out_of_range_is_refused(choice: str) -> None:
    scores, labels = inputs((1, 5, 7, 9, 50, 70))
    labels[0, -1, -1] = 5
    kernels.use(choice)
    with pytest.raises(ValueError, match="labels: got"):
        upsample_cross_entropy(scores, labels, align_corners=True)


def test_arguments_are_checked() -> None:
    scores, labels = inputs((2, 5, 7, 9, 50, 70))
    with pytest.raises(TypeError, match=r"scores: got torch\.float64"):
        upsample_cross_entropy(scores.double(), labels, align_corners=True)
    with pytest.raises(ValueError, match=r"scores: got shape \(5, 7, 9\)"):
        upsample_cross_entropy(scores[0], labels, align_corners=True)
    with pytest.raises(TypeError, match=r"labels: got torch\.float32"):
        upsample_cross_entropy(scores, labels.float().requires_grad_(), align_corners=True)
    with pytest.raises(ValueError, match="labels: got batch 1"):
        upsample_cross_entropy(scores, labels[:1], align_corners=True)
    with pytest.raises(TypeError, match="align_corners: got 0"):
        upsample_cross_entropy(scores, labels, align_corners=0)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"size: got size \(0, 9\)"):
        upsample_softmax(scores, (0, 9), align_corners=True)
    with pytest.raises(ValueError, match="expected sides up to"):
        upsample_softmax(scores, (20000, 9), align_corners=True)


def test_operators_are_registered() -> None:
    scores, labels = inputs((2, 5, 7, 9, 50, 70))
    scores.requires_grad_()
    ops = torch.ops.fastass
    for p in (False, True):
        torch.library.opcheck(ops.upsample_cross_entropy, (scores, labels, True, 255, True, p))
    torch.library.opcheck(
        ops.upsample_cross_entropy, (scores.detach(), labels, True, 255, False, False)
    )
    torch.library.opcheck(ops.upsample_softmax, (scores, 50, 70, False))
    incoming = torch.randn(2, 5, 50, 70)
    torch.library.opcheck(ops.upsample_softmax_backward, (scores.detach(), incoming, False))


def test_gradients_of_the_reference() -> None:
    """gradcheck in float64; the fast paths are held against the reference's gradients above."""
    scores, labels = inputs((1, 3, 3, 4, 8, 10))
    kernels.use("reference")
    given = scores.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: upsample_cross_entropy(s, labels, align_corners=True, return_probabilities=True),
        (given,),
    )


def test_compiles_into_one_graph() -> None:
    scores, labels = inputs((2, 5, 7, 9, 50, 70))

    def step(scores: Tensor) -> Tensor:
        loss, p = upsample_cross_entropy(
            scores, labels, align_corners=True, return_probabilities=True
        )
        return loss + p.square().mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found: list[Tensor | None] = []
    for run in (step, compiled):
        scores.grad = None
        run(scores.requires_grad_()).backward()
        found.append(scores.grad)
    expected, gradient = found
    assert gradient is not None
    torch.testing.assert_close(gradient, expected)


def test_autocast_leaves_the_dtype_alone() -> None:
    scores, labels = inputs((2, 5, 7, 9, 50, 70))
    expected = upsample_cross_entropy(scores, labels, align_corners=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss, p = upsample_cross_entropy(
            scores, labels, align_corners=True, return_probabilities=True
        )
    assert torch.equal(loss, expected)
    assert p.dtype == torch.float32


INTERPRETED = """
import torch
from fastass.kernels.upsample import softmax_gpu as softmax
from fastass.kernels.upsample import cross_entropy as entropy
from fastass.kernels.upsample import softmax as alone

# Several images; one score; cells of many columns (two phases of 32); fewer outputs than scores;
# strips that end at a line, before and behind it; more classes than a thread takes.
SHAPES = (
    (2, 5, 3, 7, 9, 22), (1, 3, 1, 1, 3, 4), (1, 19, 4, 2, 3, 9), (1, 2, 3, 20, 1, 41),
    (1, 4, 2, 2, 3, 70), (1, 3, 9, 40, 5, 13), (1, 3, 5, 2, 6, 4), (1, 3, 6, 2, 11, 4),
    (2, 33, 3, 4, 5, 9), (1, 40, 2, 3, 3, 35),
)
LOW = torch.bfloat16
WAYS = ((False, torch.float32), (True, LOW), (True, torch.float32), (False, LOW))
for shape in SHAPES:
    for align, dtype in WAYS if shape in (SHAPES[0], SHAPES[8]) else WAYS[:2]:
        torch.manual_seed(0)
        batch, classes, _, _, height, width = shape
        scores = torch.randn(shape[:4]).to(dtype).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, classes, (batch, height, width), dtype=torch.uint8)
        labels[torch.rand(labels.shape) < 0.2] = 255
        exact = scores.double().requires_grad_()
        truth, P = entropy.reference(
            exact, labels, align_corners=align, return_probabilities=True
        )
        valid = (labels != 255).sum()
        (of_loss,) = torch.autograd.grad(truth * valid, exact, retain_graph=True)
        cotangent = torch.randn(P.shape).to(dtype)
        (of_p,) = torch.autograd.grad(P, exact, cotangent.double())
        loss, count, gradient, p = softmax.forward(
            scores, labels, (height, width), align, 255, True, True
        )
        assert count == valid
        close = dict(rtol=2e-6, atol=3e-6)
        torch.testing.assert_close(loss, truth.detach() * valid, **close)
        torch.testing.assert_close(gradient.double(), of_loss, **close)
        rough = dict(rtol=1e-2, atol=1e-3) if dtype == torch.bfloat16 else close
        torch.testing.assert_close(p.double(), P.detach(), **rough)
        torch.testing.assert_close(
            alone._backward_cuda(scores, cotangent, align).double(), of_p, **close
        )
        mean, *same = entropy._cuda(scores, labels, align, 255, True, True)
        assert torch.equal(mean, (loss / count).float())
        assert all(map(torch.equal, same, (count, gradient, p)))
        assert torch.equal(alone._cuda(scores, height, width, align), p)

# No class, nor ignored: out of the gradient and P, and the loss says so, as the reference's does.
labels[0, 0, :5], labels[0, 0, 5:9] = 200, 255
given = scores.float().requires_grad_()
for ignore_index in (255, 1):
    truth, P = entropy.reference(
        given, labels, align_corners=True, ignore_index=ignore_index, return_probabilities=True
    )
    (of_loss,) = torch.autograd.grad(truth, given)
    loss, valid, gradient, p = softmax.forward(
        given.detach(), labels, (height, width), True, ignore_index, True, True
    )
    assert truth.isnan() and loss.isnan()
    torch.testing.assert_close(gradient / valid, of_loss, **close)
    torch.testing.assert_close(p, P, **close)
"""


def test_triton_in_the_interpreter() -> None:
    interpreted("-c", INTERPRETED)
