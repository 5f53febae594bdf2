"""The networks, their optimizers and one optimizer step."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fastass.config.schema import Config
from fastass.method.adaptation import Adaptation, LossTerms, MethodSpec, objective
from fastass.method.item_weights import item_weights
from fastass.models import ema
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.models.discriminators import (
    FeatureDiscriminator,
    GlobalDiscriminator,
    PixelDiscriminator,
)
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.ddp import wrap
from fastass.runtime.device import Runtime
from fastass.runtime.malloc import Allocator
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.concurrent_backward import ConcurrentBackward, unavailable
from fastass.training.optimizers.build import discriminator_optimizer, generator_optimizer


def build(config: Config, spec: MethodSpec) -> Adaptation:
    """G, D_g and D_s of a method with random weights, a pure function of `config.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = build_deeplab(config.model)
        classes, size = config.model.num_classes, config.discriminator
        levels = (2 if config.model.heads == "multi" else 1) if spec.global_ else 0
        d_g = [GlobalDiscriminator(classes, size.width) for _ in range(levels)]
        d_s: FeatureDiscriminator | PixelDiscriminator | None = None
        if spec.semantic == "fcsa":
            d_s = FeatureDiscriminator(generator.features, classes, size.hidden)
        elif spec.semantic == "csa":
            d_s = PixelDiscriminator(generator.features, classes, size.hidden)
    module = Adaptation(generator, d_g, d_s, config.loss)
    if config.ema:
        module.average = ema.average_of(generator)
    return module


class _Part(NamedTuple):
    batch: StepBatch
    number: int  # which of the step's batches it belongs to
    last: bool  # of the step


def _summed(parts: Sequence[LossTerms]) -> LossTerms:
    """Each term over the parts that have it."""
    every = [[t for t in terms if t is not None] for terms in zip(*parts, strict=True)]
    return LossTerms(*(reduce(add, terms) if terms else None for terms in every))


class TrainStep:
    """The module, its optimizers and the step that trains them; the same on every rank."""

    def __init__(
        self,
        module: Adaptation,
        config: Config,
        runtime: Runtime,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.config, self.runtime, self.world = config, runtime, world
        self.module = module.to(runtime.device)
        self.ema_updates = 0
        self._adapt: bool | None = None  # the phase that `_forward` is made for
        self._parallel: DistributedDataParallel | None = None
        self._forward: nn.Module = self.module
        self.optimizers: dict[str, Optimizer] = {
            "generator": generator_optimizer(module.generator, config)
        }
        for i, d_g in enumerate(module.global_discriminators):
            self.optimizers[f"global_{i}"] = discriminator_optimizer(d_g, config)
        if module.semantic_discriminator is not None:
            self.optimizers["semantic"] = discriminator_optimizer(
                module.semantic_discriminator, config
            )
        # Gradients that every stream adds to stay where they are: made anew among each step's
        # activations they would leave no room for the next one's. A distributed group has them in
        # its buckets. On CUDA the allocator has segments for each size.
        self._keeps_gradients = (
            config.backward == "streamed" and runtime.device.type == "cpu" and not world.grouped
        )
        self._allocator = Allocator(runtime.tuned)
        self.lanes: ConcurrentBackward | None = None
        if config.backward == "concurrent" and not unavailable(config, runtime.device, world):
            self.lanes = ConcurrentBackward()
        self.scaler = torch.amp.GradScaler(
            runtime.device.type, enabled=runtime.amp_dtype == torch.float16
        )

    @property
    def generator(self) -> DeepLab:
        return self.module.generator

    @property
    def evaluated(self) -> DeepLab:
        """The generator that is evaluated: the running average of the weights where it is on."""
        average = self.module.average
        return self.generator if average is None else average

    def step(self, batches: Sequence[StepBatch], *, adapt: bool) -> LossTerms:
        """One optimizer step over `accumulate` batches → this rank's part of each term, detached.

        A term is a mean over the valid items of the whole step; the ranks' parts add up to it.

        adapt: the method; else the supervised start that precedes it. Optimizers of modules
        that got no gradient (the discriminators during the start) do not step.
        """
        self.module.train()
        self._enter(adapt)
        share: Sequence[Sequence[float]] | Tensor = [[1.0] * len(LossTerms._fields)]
        if len(batches) > 1 or self.world.grouped:
            share = item_weights(self.module, batches, self.world)
        parts = list(self._parts(batches))

        def terms_of(part: _Part) -> LossTerms:
            return self._forward_and_backward(part, share[part.number], adapt)

        if self.lanes is not None and len(parts) > 1:
            *target, source = parts
            found = self.lanes.run(terms_of, [source], target[::-1])
        else:
            found = [terms_of(part) for part in parts]
        for optimizer in self.optimizers.values():
            if any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
                self.scaler.step(optimizer)
        self.module.zero_grad(set_to_none=not self._keeps_gradients)
        self.scaler.update()
        if self.module.average is not None:
            ema.update(self.module.average, self.generator, self.config.ema, self.ema_updates)
            self.ema_updates += 1
        self._allocator.stepped()
        return _summed(found)

    def _forward_and_backward(
        self, part: _Part, share: Sequence[float] | Tensor, adapt: bool
    ) -> LossTerms:
        """The gradients of one part are added to what is there; → its share of the terms."""
        with self._exchange(part.last):
            with self.runtime.autocast():
                if self.config.runtime.compile:
                    # CUDA graphs may reuse what the last forward returned.
                    torch.compiler.cudagraph_mark_step_begin()
                terms = self._forward(part.batch, adapt=adapt)
                pairs = zip(terms, share, strict=True)
                terms = LossTerms(*(None if t is None else s * t for t, s in pairs))
                # The exchange averages over the ranks, and the shares already do.
                total = objective(terms, self.config.loss) * self.world.size
            self.scaler.scale(total).backward()
        return LossTerms(*(None if t is None else t.detach() for t in terms))

    def _enter(self, adapt: bool) -> None:
        """Prepare the forward of a phase: the start trains G alone, the method all networks."""
        if adapt == self._adapt:
            return
        self._adapt = adapt
        self._allocator.begin()
        self._parallel, self._forward = None, self.module
        for d in (self.module.global_discriminators, self.module.semantic_discriminator):
            if d is not None:
                d.requires_grad_(adapt)
        if self.world.grouped:
            self._forward = self._parallel = wrap(self.module, self.config, self.world)
        if self.config.runtime.compile:
            # Sizes are static: each stream's shape has a graph of its own from the first step on.
            self._forward = torch.compile(  # type: ignore[assignment]
                self._forward, mode=self.config.runtime.compile_mode, dynamic=False
            )

    def _exchange(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients of all parts but the last add up on each rank; the last one's are exchanged."""
        if self._parallel is None or last:
            return contextlib.nullcontext()
        return self._parallel.no_sync()

    def _parts(self, batches: Sequence[StepBatch]) -> Iterator[_Part]:
        """What one forward and backward takes: a whole batch, or each of its streams.

        The streams' terms share no activations, so the gradients are the same. The source comes
        last of the streams: its terms alone reach every network, so in its backward, the one that
        exchanges gradients, none is missing.
        """
        apart = self.config.backward == "streamed" or (self.lanes is not None and len(batches) == 1)
        for i, batch in enumerate(batches):
            final = i == len(batches) - 1
            if not apart:
                yield _Part(batch, i, final)
            else:
                order = ("unlabelled", "labelled", "source")
                present = [n for n in order if getattr(batch, n) is not None]
                for name in present:
                    part = StepBatch(**{name: getattr(batch, name)})
                    yield _Part(part, i, final and name == present[-1])

    def state(self) -> dict[str, Any]:
        """Everything beside the weights that the next step depends on."""
        return {
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema_updates,
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])
        self.ema_updates = state.get("ema_updates", 0)
        torch.set_rng_state(state["rng"])
