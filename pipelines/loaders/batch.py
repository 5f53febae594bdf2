"""The batch of a training step: the output of the loaders and the input of the method."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """One stream's part of a step.

    images: float [B,3,H,W], channels-last memory, normalised. labels: train ids uint8 [B,H,W], None
    for an unlabelled stream. names: of the samples, in order. skipped: how many of them replace a
    bad sample. found_bad: one line per bad sample that was read for the first time.

    Of mixed images alone (`fastass.self_training`): pasted: bool [B,H,W], the pixels of pasted
    pieces. confidence: float32 [B], the weight of an image's other pixels.
    """

    images: Tensor
    labels: Tensor | None
    names: tuple[str, ...] = ()
    skipped: int = 0
    found_bad: tuple[str, ...] = ()
    pasted: Tensor | None = None
    confidence: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Images and labels as a loader reads them on `device`, without names and counts: a
        compiled step would guard on these."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), labels)


class StepBatch(NamedTuple):
    """The streams I_s, I_tl, I_tu and I_m of one step; None for one that the method does not use.

    Loaders read the first three; `mixed` is made from them.
    """

    source: Batch | None = None
    labelled: Batch | None = None
    unlabelled: Batch | None = None
    mixed: Batch | None = None

    @property
    def skipped(self) -> int:
        """Number of bad samples that were replaced in this step, on this rank."""
        return sum(batch.skipped for batch in self if batch is not None)

    @property
    def found_bad(self) -> tuple[str, ...]:
        """One line per bad sample that was read for the first time, on this rank."""
        return tuple(line for batch in self if batch is not None for line in batch.found_bad)

    def to(self, device: torch.device) -> "StepBatch":
        """The tensors of all streams on `device`."""
        return StepBatch(*(batch if batch is None else batch.to(device) for batch in self))
