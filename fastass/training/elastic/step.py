"""One optimizer step that the members of an elastic run divide among them.

Each member forwards its share of the step's images, in mini-batches. Every batch is weighted by its
share of the valid items of the whole step, so the sum of the members' gradients is that of one
process over the same images, however uneven the shares are. Gradients, terms and running statistics
are exchanged at the end, in one sum; then torchft says whether the step counts. Until then nothing
has changed but running statistics, and a lost step puts these back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastass.config.schema import Config
from fastass.method.adaptation import Adaptation
from fastass.method.terms import LossTerms
from fastass.models.domain_statistics import running_norms
from fastass.pipelines.loaders.batch import StepBatch
from fastass.pipelines.loaders.order import share
from fastass.runtime.ddp import running_statistics
from fastass.runtime.device import Runtime
from fastass.runtime.elastic import Members, StepLost
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.step import TrainStep


@dataclass(frozen=True)
class _StepWorld(World):
    """What a step sees of the members: their sums. There is no process group, and no DDP."""

    grouped: bool = True
    total: Callable[[Tensor], Tensor] = lambda tensor: tensor

    @property
    def ddp(self) -> bool:
        return False

    def describe(self) -> str:
        return " · elastic"

    def sum(self, tensor: Tensor) -> Tensor:
        return self.total(tensor)


class ElasticStep(TrainStep):
    """The step of one member. `members`: of the step that is taken; set before the first one."""

    members: Members

    def __init__(self, module: Adaptation, config: Config, runtime: Runtime) -> None:
        world = _StepWorld(total=lambda tensor: self.members.sum(tensor))
        super().__init__(module, config, runtime, world)
        if self.self_training is not None:
            self.self_training.world = SINGLE_PROCESS  # its means are exchanged with the gradients
            self.self_training.places = self._places
        trained: list[nn.Module | None] = [module.generator, module.target_statistics]
        self._statistics = [s for part in trained if part for s in running_statistics(part)]
        norms = running_norms(module.generator).values()
        self._counters = [n.num_batches_tracked for n in norms if n.num_batches_tracked is not None]
        self._counted: list[Tensor] = []  # before the step
        self._part = 1.0  # of the step's images, this member's
        self._own_skipped = self._mixed_before = 0
        self.skipped = 0  # bad samples that were replaced in the last step, of all members

    def take(self, batches: Sequence[StepBatch], skipped: int, *, adapt: bool) -> LossTerms:
        """One step over this member's share → the terms of the whole step.

        skipped: bad samples in the share. Raises StepLost if the step does not count; the weights,
        the optimizers and the running statistics are then as before it.
        """
        images = sum(next(len(s.images) for s in batch if s is not None) for batch in batches)
        self._part, self._own_skipped = images / self.config.global_batch, skipped
        before = [statistic.clone() for statistic in self._statistics]
        self._counted = [counter.clone() for counter in self._counters]
        mixing = self.self_training.shares if self.self_training is not None else []
        self._mixed_before = len(mixing)
        try:
            return self.step(batches, adapt=adapt)
        except StepLost:
            kept = zip(self._statistics + self._counters, before + self._counted, strict=True)
            for own, value in kept:
                own.copy_(value)
            del mixing[self._mixed_before :]
            self.module.zero_grad()
            raise

    @torch.no_grad()
    def _agreed(self, terms: LossTerms) -> LossTerms:
        """Sum what the members have, in one exchange → the terms of the whole step."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        present = {name: term for name, term in terms._asdict().items() if term is not None}
        mixing = self.self_training.shares if self.self_training is not None else []
        mixed = mixing[self._mixed_before :]
        means = [*self._statistics, *([torch.stack(mixed).mean(0)] if mixed else [])]
        own = [*gradients, *present.values(), *(mean * self._part for mean in means)]
        own += [now - then for now, then in zip(self._counters, self._counted, strict=True)]
        own.append(torch.tensor(self._own_skipped, device=own[0].device))
        sums = self.members.sum(torch.cat([value.flatten().to(own[0].dtype) for value in own]))
        self.members.commit()
        parts = iter(sums.split([value.numel() for value in own]))
        for gradient in gradients:
            gradient.copy_(next(parts).view_as(gradient))
        terms = LossTerms(**{name: next(parts)[0] for name in present})
        for statistic in self._statistics:
            statistic.copy_(next(parts))
        if mixed:
            mixing[self._mixed_before :] = [next(parts)]
        for counter, then in zip(self._counters, self._counted, strict=True):
            counter.copy_(then + next(parts)[0].to(then))
        self.skipped = int(next(parts))
        return terms

    def _places(self, update: int, sizes: Sequence[int]) -> list[range]:
        """Of the mixed batches of these sizes: the share's, one after the other."""
        start = share(update, self.config.global_batch, self.members.rank, self.members.size).start
        places = []
        for size in sizes:
            places.append(range(start, start + size))
            start += size
        return places
