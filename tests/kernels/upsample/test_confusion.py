"""upsample_confusion: every implementation against float64 torch."""

import pytest
import torch
from child import interpreted
from torch import Tensor

from fastass import kernels
from fastass.kernels import native_library
from fastass.kernels.upsample.confusion import reference, upsample_confusion

SHAPES = [  # B, C, h, w, H, W
    (1, 19, 91, 161, 720, 1280),
    (2, 19, 65, 129, 512, 1024),
    (2, 5, 7, 9, 50, 70),
    (1, 64, 5, 33, 40, 264),
    (3, 2, 9, 11, 4, 5),  # towards fewer pixels
    (1, 3, 1, 1, 6, 7),
    (1, 4, 3, 1, 1, 5),
    (1, 1, 4, 6, 9, 13),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    batch, classes, in_height, in_width, height, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    scores = torch.randn(batch, classes, in_height, in_width, generator=generator)
    labels = torch.randint(0, classes, (batch, height, width), generator=generator).to(torch.uint8)
    labels[torch.rand(batch, height, width, generator=generator) < 0.15] = 255
    return (3 * scores).to(dtype).contiguous(memory_format=torch.channels_last), labels


def misplaced(counts: Tensor, truth: Tensor) -> int:
    """Pixels that are in another column than in `truth`; the rows' sums must agree exactly."""
    assert torch.equal(counts.sum(1), truth.sum(1))
    return int((counts - truth).abs().sum()) // 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_native_counts_as_float64_does(shape: tuple[int, ...], align_corners: bool) -> None:
    scores, labels = inputs(shape)
    counts = upsample_confusion(scores, labels, align_corners=align_corners)
    truth = reference(scores.double(), labels, align_corners=align_corners)
    # float32 ties: torch's own float32 path misplaces a few pixels in a million
    assert misplaced(counts, truth) <= labels.numel() // 200_000


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
    scores, labels = inputs((2, 19, 13, 21, 100, 160), dtype)
    counts = upsample_confusion(scores, labels, align_corners=False)
    assert misplaced(counts, reference(scores.double(), labels, align_corners=False)) <= 1


@pytest.mark.parametrize("instruction_set", native_library.INSTRUCTION_SETS)
def test_classes_that_cannot_win_are_left_out_rightly(
    instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regions with one possible winner, borders with few; NaN disturbs only the cells beside it."""
    if (
        native_library.INSTRUCTION_SETS.index(instruction_set)
        > native_library.library().fastass_best_isa()
    ):
        pytest.skip(f"this processor has no {instruction_set}")
    monkeypatch.setenv("FASTASS_CPU_ISA", instruction_set)
    generator = torch.Generator().manual_seed(0)
    coarse = 20 * torch.randn(1, 40, 4, 6, generator=generator)
    scores = torch.nn.functional.interpolate(coarse, (33, 70), mode="bilinear")
    scores = scores + 0.01 * torch.randn(scores.shape, generator=generator)
    _, labels = inputs((1, 40, 1, 1, 264, 560))
    counts = upsample_confusion(scores, labels, align_corners=False)
    assert misplaced(counts, reference(scores.double(), labels, align_corners=False)) <= 1
    for row, least in ((0, 2), (32, 3)):  # NaN reaches at most the cells beside it
        scores[:, least:, row, 0] = torch.nan
        again = upsample_confusion(scores, labels, align_corners=False)
        assert int((again - counts).abs().sum()) <= 2 * 2 * 16 * 16


def test_layouts_and_threads_do_not_matter() -> None:
    scores, labels = inputs((2, 19, 13, 21, 100, 160))
    expected = upsample_confusion(scores, labels, align_corners=True)
    wide = torch.empty(2, 2 * 19, 13, 42)[:, ::2, :, ::2].copy_(scores)
    tall = torch.empty(2, 160, 100, dtype=torch.uint8).transpose(1, 2).copy_(labels)
    assert torch.equal(upsample_confusion(wide, tall, align_corners=True), expected)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 50):
            torch.set_num_threads(threads)
            assert torch.equal(upsample_confusion(scores, labels, align_corners=True), expected)
    finally:
        torch.set_num_threads(before)


def test_ignored_and_absent_classes() -> None:
    scores, labels = inputs((1, 5, 7, 9, 50, 70))
    labels[labels == 2] = 3
    assert upsample_confusion(scores, labels, align_corners=True)[2].sum() == 0
    labels.fill_(255)
    assert upsample_confusion(scores, labels, align_corners=True).sum() == 0
    labels.fill_(1)  # ignoring a real class
    assert upsample_confusion(scores, labels, align_corners=True, ignore_index=1).sum() == 0


def test_first_of_equal_maxima_wins() -> None:
    scores = torch.zeros(1, 4, 3, 3)
    labels = torch.ones(1, 9, 9, dtype=torch.uint8)
    assert upsample_confusion(scores, labels, align_corners=False)[1].tolist() == [81, 0, 0, 0]


@pytest.mark.parametrize("choice", ["reference", "native"])
def test_label_out_of_range_is_refused(choice: str) -> None:
    scores, labels = inputs((1, 5, 7, 9, 50, 70))
    labels[0, -1, -1] = 5
    kernels.use(choice)
    try:
        with pytest.raises(ValueError, match="labels: got"):
            upsample_confusion(scores, labels, align_corners=True)
    finally:
        kernels.use("auto")


def test_arguments_are_checked() -> None:
    scores, labels = inputs((2, 5, 7, 9, 50, 70))
    with pytest.raises(TypeError, match=r"scores: got torch\.float64"):
        upsample_confusion(scores.double(), labels, align_corners=True)
    with pytest.raises(ValueError, match=r"scores: got shape \(5, 7, 9\)"):
        upsample_confusion(scores[0], labels, align_corners=True)
    with pytest.raises(ValueError, match="expected at most 64"):
        upsample_confusion(torch.zeros(2, 65, 7, 9), labels, align_corners=True)
    with pytest.raises(ValueError, match="expected non-empty"):
        upsample_confusion(scores[:0], labels[:0], align_corners=True)
    with pytest.raises(TypeError, match=r"labels: got torch\.int64, expected torch\.uint8"):
        upsample_confusion(scores, labels.long(), align_corners=True)
    with pytest.raises(ValueError, match="labels: got batch 1, expected 2"):
        upsample_confusion(scores, labels[:1], align_corners=True)
    with pytest.raises(ValueError, match="expected non-empty"):
        upsample_confusion(scores, labels[:, :0], align_corners=True)
    with pytest.raises(ValueError, match="labels: got device meta"):
        upsample_confusion(scores, labels.to("meta"), align_corners=True)
    with pytest.raises(ValueError, match="ignore_index: got 256"):
        upsample_confusion(scores, labels, align_corners=True, ignore_index=256)
    with pytest.raises(TypeError, match="align_corners: got 1"):
        upsample_confusion(scores, labels, align_corners=1)  # type: ignore[arg-type]


def test_operator_is_registered() -> None:
    scores, labels = inputs((2, 5, 7, 9, 50, 70))
    torch.library.opcheck(torch.ops.fastass.upsample_confusion, (scores, labels, True, 255))
    compiled = torch.compile(
        lambda s, l: upsample_confusion(s, l, align_corners=True) + 1,
        fullgraph=True,
        backend="eager",
    )
    assert torch.equal(
        compiled(scores, labels), upsample_confusion(scores, labels, align_corners=True) + 1
    )


INTERPRETED = """
import torch
from fastass.kernels.upsample import confusion as op
for align in (False, True):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(0)
        scores = (3 * torch.randn(2, 5, 7, 9)).to(dtype)
        scores = scores.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, 5, (2, 21, 33), dtype=torch.uint8)
        labels[torch.rand(2, 21, 33) < 0.2] = 255
        counts = op._cuda(scores, labels, align, 255)
        truth = op.reference(scores.double(), labels, align_corners=align)
        assert torch.equal(counts, truth), (align, dtype, counts, truth)
labels[0, 0, 0] = 7  # no class, nor ignored: the counts say so, as the reference's do
assert (op._cuda(scores, labels, True, 255) == -1).all()
assert (op.reference(scores, labels, align_corners=True) == -1).all()
"""


def test_triton_in_the_interpreter() -> None:
    interpreted("-c", INTERPRETED)
