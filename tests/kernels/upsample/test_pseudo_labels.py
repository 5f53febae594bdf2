"""upsample_pseudo_labels: every implementation against float64 torch."""

import pytest
import torch
from child import interpreted
from torch import Tensor
from torch.nn import functional

from fastass import kernels
from fastass.kernels import native_library, upsample_pseudo_labels

SHAPES = [  # B, C, h, w, H, W
    (2, 19, 33, 65, 256, 512),
    (2, 5, 7, 9, 50, 70),
    (1, 64, 5, 33, 40, 264),
    (1, 19, 3, 4, 100, 70),
    (3, 2, 9, 11, 4, 5),
    (1, 3, 1, 1, 6, 7),
    (2, 1, 3, 1, 1, 5),
]
ISAS = native_library.INSTRUCTION_SETS


def scores_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(sum(shape))
    scores = (3 * torch.randn(shape[:4], generator=g)).to(dtype)
    return scores.contiguous(memory_format=torch.channels_last)


def assert_right(scores: Tensor, size: tuple[int, int], align: bool, threshold: float) -> None:
    """Right wherever float64 is clear: the first class well ahead, P not at the threshold."""
    labels, confident = upsample_pseudo_labels(scores, size, threshold, align_corners=align)
    assert labels.dtype == torch.uint8
    assert labels.shape == (scores.shape[0], *size)
    assert confident.dtype == torch.int64
    P = functional.interpolate(scores.double(), size, mode="bilinear", align_corners=align)
    P = P.softmax(1)
    best, truth = P.max(1)
    second = P.topk(min(2, P.shape[1]), 1).values[:, -1]
    clear = (best - second > 1e-5) | (P.shape[1] == 1)
    assert clear.float().mean() > 0.99
    assert torch.equal(labels[clear].long(), truth[clear])
    least, most = (best > threshold + 1e-6).sum((1, 2)), (best > threshold - 1e-6).sum((1, 2))
    assert (least <= confident).all()
    assert (confident <= most).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("choice", ["reference", "native"])
def test_the_most_probable_class(shape: tuple[int, ...], choice: str) -> None:
    kernels.use(choice)
    for align in (False, True):
        for threshold in (0.0, 0.6, 0.95):
            assert_right(scores_of(shape), (shape[4], shape[5]), align, threshold)


@pytest.mark.parametrize("instruction_set", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_instruction_sets_and_dtypes(
    instruction_set: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ISAS.index(instruction_set) > native_library.library().fastass_best_isa():
        pytest.skip(f"this processor has no {instruction_set}")
    monkeypatch.setenv("FASTASS_CPU_ISA", instruction_set)
    assert_right(scores_of((2, 19, 13, 21, 100, 160), dtype), (100, 160), True, 0.8)


@pytest.mark.parametrize("spread", [50.0, 1000.0])
def test_far_apart_scores(spread: float) -> None:
    assert_right(spread * scores_of((1, 5, 7, 9, 50, 70)), (50, 70), True, 0.8)


@pytest.mark.parametrize("choice", ["reference", "native"])
def test_the_first_of_equal_classes_and_a_threshold_that_is_met(choice: str) -> None:
    kernels.use(choice)
    scores = torch.zeros(2, 4, 3, 3)
    labels, confident = upsample_pseudo_labels(scores, (9, 8), 0.25, align_corners=True)
    assert labels.count_nonzero() == 0
    assert confident.tolist() == [0, 0]  # P is the threshold, not above it
    labels, confident = upsample_pseudo_labels(scores, (9, 8), 0.24, align_corners=True)
    assert confident.tolist() == [72, 72]


def test_layouts_and_threads_do_not_matter() -> None:
    scores = scores_of((2, 19, 13, 21, 100, 160))
    expected = upsample_pseudo_labels(scores, (100, 160), 0.8, align_corners=True)
    wide = torch.empty(2, 38, 13, 42)[:, ::2, :, ::2].copy_(scores)
    before = torch.get_num_threads()
    try:
        for given, threads in ((wide, before), (scores.contiguous(), 1), (scores, 64)):
            torch.set_num_threads(threads)
            found = upsample_pseudo_labels(given, (100, 160), 0.8, align_corners=True)
            assert all(map(torch.equal, found, expected))
    finally:
        torch.set_num_threads(before)


def test_arguments_are_checked() -> None:
    scores = scores_of((2, 5, 7, 9, 50, 70))
    with pytest.raises(ValueError, match=r"threshold: got 1\.5"):
        upsample_pseudo_labels(scores, (50, 70), 1.5, align_corners=True)
    with pytest.raises(ValueError, match=r"size: got size \(0, 9\)"):
        upsample_pseudo_labels(scores, (0, 9), 0.5, align_corners=True)
    with pytest.raises(TypeError, match=r"scores: got torch\.float64"):
        upsample_pseudo_labels(scores.double(), (50, 70), 0.5, align_corners=True)


def test_the_operator_is_registered() -> None:
    scores = scores_of((2, 5, 7, 9, 50, 70))
    torch.library.opcheck(torch.ops.fastass.upsample_pseudo_labels, (scores, 50, 70, 0.8, True))


INTERPRETED = """
import torch
from fastass.kernels.upsample import pseudo_labels as op

for shape in ((2, 5, 3, 7, 9, 22), (1, 1, 1, 1, 3, 4), (1, 19, 4, 2, 3, 9), (1, 5, 3, 20, 30, 80)):
    for align in (False, True):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            torch.manual_seed(0)
            scores = (3 * torch.randn(shape[:4])).to(dtype)
            P = op.upsampled(scores.double(), shape[4:], align).softmax(1)
            best, truth = P.max(1)
            clear = (P > best[:, None] - 1e-5).sum(1) == 1
            for threshold in (0.0, 0.7):
                labels, confident = op._cuda(scores, *shape[4:], threshold, align)
                assert labels.dtype == torch.uint8 and confident.dtype == torch.int64
                assert torch.equal(labels[clear].long(), truth[clear])
                low, high = (best > threshold + d for d in (1e-6, -1e-6))
                assert (low.sum((1, 2)) <= confident).all()
                assert (confident <= high.sum((1, 2))).all()

scores[:, 2] = float("-inf")
assert not (op._cuda(scores, 30, 80, 0.5, True)[0] == 2).any()
"""


def test_triton_in_the_interpreter() -> None:
    interpreted("-c", INTERPRETED)
