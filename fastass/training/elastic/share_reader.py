"""Reads this member's share of each step."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import torch

from fastass.config.schema import Config
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.loaders.batch import StepBatch
from fastass.pipelines.loaders.order import pieces, share
from fastass.pipelines.loaders.pillow import PillowLoader
from fastass.training.data import TrainingData


class ShareReader:
    """Step and members → the mini-batches of one member, in host memory. Closes its loaders.

    It reads ahead as long as the steps follow each other and the members stay the same.
    """

    def __init__(self, data: TrainingData, config: Config, device: torch.device) -> None:
        self.data, self.config, self.device = data, config, device
        self._loaders: dict[MethodSpec, PillowLoader] = {}
        self._next: tuple[MethodSpec, int, int, int] | None = None
        self._batches: Iterator[StepBatch] = iter(())
        self._open = ExitStack()

    def read(self, spec: MethodSpec, step: int, member: int, members: int) -> list[StepBatch]:
        """The mini-batches of a step, with at most `batch` images each, for the streams of `spec`.

        Raises DataError for a bad sample if bad ones are not skipped.
        """
        if self._next != (spec, step, member, members):
            cuts = (self._cut(at, member, members) for at in itertools.count(step))
            parts = itertools.chain.from_iterable(cuts)
            self._batches = self._loader(spec).batches_at(parts)
        self._next = (spec, step + 1, member, members)
        return [next(self._batches) for _ in self._cut(step, member, members)]

    def _cut(self, step: int, member: int, members: int) -> list[range]:
        return pieces(share(step, self.config.global_batch, member, members), self.config.batch)

    def _loader(self, spec: MethodSpec) -> PillowLoader:
        if spec not in self._loaders:
            loader = self._open.enter_context(self.data.loader(spec, self.device))
            assert isinstance(loader, PillowLoader)  # DALI is refused
            self._loaders[spec] = loader
        return self._loaders[spec]

    def close(self) -> None:
        """End the loaders' threads."""
        self._open.close()
