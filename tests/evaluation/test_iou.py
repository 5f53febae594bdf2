"""IoU against a count written out by hand."""

import math

import pytest
import torch

from fastass.errors import UserError
from fastass.evaluation.iou import iou, mean_iou, per_class_iou


def test_iou_by_hand() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    prediction = torch.tensor([0, 0, 1, 1, 0, 2, 2, 2, 1])
    counts = torch.zeros(4, 4, dtype=torch.int64)
    for t, p in zip(truth.tolist(), prediction.tolist(), strict=True):
        counts[t, p] += 1
    values = iou(counts)
    for k in range(3):
        hit = ((truth == k) & (prediction == k)).sum().item()
        union = ((truth == k) | (prediction == k)).sum().item()
        assert values[k].item() == hit / union
    assert math.isnan(values[3].item())
    named = per_class_iou(counts, "abcd")
    assert named["d"] is None
    assert mean_iou(named) == pytest.approx(100 * (2 / 4 + 1 / 4 + 3 / 4) / 3)
    assert mean_iou(named, over="bc") == pytest.approx(50)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    counts = torch.tensor([[3, 1], [0, 0]])
    assert per_class_iou(counts, "ab") == {"a": 75.0, "b": 0.0}


def test_a_class_of_one_pixel_counts_and_one_of_none_does_not() -> None:
    """The union decides: from one pixel on, a class has an IoU and takes part in the mean."""
    counts = torch.zeros(4, 4, dtype=torch.int64)
    counts[0, 0] = 3
    counts[1, 1] = 1  # a union of one pixel, all of it hit
    counts[0, 2] = 1  # a union of one pixel, none of it hit
    named = per_class_iou(counts, "abcd")
    assert named == {"a": 75.0, "b": 100.0, "c": 0.0, "d": None}
    assert mean_iou(named) == pytest.approx((75 + 100 + 0) / 3)
    assert mean_iou(named, over="bd") == 100


def test_counts_beyond_the_precision_of_float32() -> None:
    counts = torch.tensor([[2**40 + 1, 1], [0, 2**40]])
    assert iou(counts)[0].item() == (2**40 + 1) / (2**40 + 2)


def test_no_class_evaluated_is_an_error() -> None:
    with pytest.raises(UserError, match="no class was evaluated"):
        mean_iou(per_class_iou(torch.zeros(3, 3, dtype=torch.int64), "abc"))
