"""The weight of each pixel in a loss: two values per image, and a mask that says which."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PixelWeights(NamedTuple):
    """A pixel's weight is 1 where `full`, else `scale` of its image.

    full: bool [B, H, W]. scale: float32 [B] (float64 for the reference). So a weight per pixel
    costs one byte.
    """

    full: Tensor
    scale: Tensor

    def check(self, labels: Tensor) -> None:
        """Raises TypeError or ValueError if they are not weights of `labels` [B, H, W]."""
        if self.full.dtype != torch.bool:
            raise TypeError(f"weights.full: got {self.full.dtype}, expected torch.bool")
        if self.scale.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"weights.scale: got {self.scale.dtype}, expected torch.float32")
        for name, given, shape in (
            ("full", self.full, labels.shape),
            ("scale", self.scale, labels.shape[:1]),
        ):
            if given.shape != shape:
                raise ValueError(
                    f"weights.{name}: got shape {tuple(given.shape)}, expected {tuple(shape)} as "
                    "labels"
                )
            if given.device != labels.device:
                raise ValueError(
                    f"weights.{name}: got device {given.device}, expected {labels.device} as labels"
                )

    def of_pixels(self) -> Tensor:
        """[B, H, W] in the dtype of `scale`."""
        return torch.where(self.full, 1.0, self.scale[:, None, None])
