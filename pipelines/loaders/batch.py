"""The batch of a training step: what loaders hand out and what the method's forward takes."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """One stream's part of a step.

    images: float [B,3,H,W], channels-last memory, normalised. labels: train ids uint8 [B,H,W], None
    for an unlabelled stream. names: of the samples read, in order. skipped: how many of them
    replace a bad sample. found_bad: a line for every bad sample that was met for the first time.
    """

    images: Tensor
    labels: Tensor | None
    names: tuple[str, ...] = ()
    skipped: int = 0
    found_bad: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """Images and labels on `device`; names and counts stay behind, a compiled step would guard
        on them."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), labels)


class StepBatch(NamedTuple):
    """The streams I_s, I_tl, I_tu of one step; None for one that the method does not use."""

    source: Batch | None = None
    labelled: Batch | None = None
    unlabelled: Batch | None = None

    @property
    def skipped(self) -> int:
        """Bad samples that were replaced in this step, on this rank."""
        return sum(batch.skipped for batch in self if batch is not None)

    @property
    def found_bad(self) -> tuple[str, ...]:
        """A line for every bad sample that was met for the first time, on this rank."""
        return tuple(line for batch in self if batch is not None for line in batch.found_bad)

    def to(self, device: torch.device) -> "StepBatch":
        """The tensors of all streams on `device`."""
        return StepBatch(*(batch if batch is None else batch.to(device) for batch in self))
