"""Intersection over union from confusion counts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastass.errors import UserError


def iou(confusion: Tensor) -> Tensor:
    """Per-class IoU [C] float64 of counts [C,C] (rows truth, columns prediction).

    A class with neither truth nor prediction is NaN, as in the Cityscapes evaluation.
    """
    counts = confusion.to(torch.float64)
    hit = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hit
    return torch.where(union > 0, hit / union, torch.nan)


def per_class_iou(confusion: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """Class name → IoU in percent; None for a class in neither labels nor predictions."""
    values = iou(confusion).tolist()
    return {n: None if v != v else 100 * v for n, v in zip(names, values, strict=True)}


def mean_iou(per_class: dict[str, float | None], over: Sequence[str] = ()) -> float:
    """Mean IoU in percent over the classes `over` (or all) that have an IoU.

    Raises UserError when no class has one, because every label pixel is ignored.
    """
    chosen = [per_class[name] for name in (over or per_class)]
    values = [v for v in chosen if v is not None]
    if not values:
        raise UserError(
            "no class was evaluated: every label pixel is ignored; is the label layout right?"
        )
    return sum(values) / len(values)
