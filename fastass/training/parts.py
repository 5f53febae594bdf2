"""The parts of a step: what one forward and one backward take, and what they give."""

from collections.abc import Callable
from typing import NamedTuple

from fastass.kernels.convolution.running_statistics import BatchStatistics
from fastass.method.terms import LossTerms
from fastass.pipelines.loaders.batch import StepBatch


class Part(NamedTuple):
    """What one forward and one backward take."""

    batch: StepBatch
    number: int  # which of the step's batches it belongs to
    last: bool  # of the step: its backward exchanges the gradients
    before: Callable[[], None] | None = None  # is called first
    then: Callable[[], StepBatch] | None = None  # more that is forwarded before the backward


class Result(NamedTuple):
    """What one forward and one backward gave."""

    part: Part
    terms: LossTerms
    seen: list[BatchStatistics]

    @property
    def order(self) -> tuple[int, int]:
        """Its place in the fused step: that of its first stream."""
        streams = self.part.batch
        first = next((i for i, s in enumerate(streams) if s is not None), len(streams))
        return self.part.number, first


def streams_of(batch: StepBatch) -> list[StepBatch]:
    """Each stream of a batch as a batch of its own, in the order of StepBatch: the source first.

    Their terms share no activations, so the gradients are those of the whole batch.
    """
    present = {name: stream for name, stream in batch._asdict().items() if stream is not None}
    return [StepBatch(**{name: stream}) for name, stream in present.items()]
