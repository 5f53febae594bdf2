"""The networks, their optimizers and one optimizer step."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from fastass import kernels
from fastass.config.schema import Config
from fastass.kernels.convolution.running_statistics import collected
from fastass.method.adaptation import Adaptation, MethodSpec, objective
from fastass.method.item_weights import item_weights
from fastass.method.terms import LossTerms, sum_terms
from fastass.models import ema
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.models.discriminators import (
    FeatureDiscriminator,
    GlobalDiscriminator,
    PixelDiscriminator,
)
from fastass.models.domain_statistics import TargetStatistics
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.ddp import wrap
from fastass.runtime.device import Runtime
from fastass.runtime.inductor import keep_channels_last
from fastass.runtime.malloc import Allocator
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.self_training.mixer import SelfTraining
from fastass.training.concurrent_backward import ConcurrentBackward, choose_backward
from fastass.training.cuda_graph import check_cuda_graphs
from fastass.training.graphed_step import GraphedStep
from fastass.training.memory.micro_batches import MicroBatches
from fastass.training.optimizers.build import (
    batch_factor,
    discriminator_optimizer,
    generator_optimizer,
)
from fastass.training.parts import Part, Result, streams_of
from fastass.training.ranks.times import ExchangeClock


def build(config: Config, spec: MethodSpec) -> Adaptation:
    """G, D_g and D_s of a method with random weights, which depend on `config.seed` alone."""
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
        if module.target_statistics is not None:
            module.average_target_statistics = TargetStatistics(module.average)
    if spec.mix:
        module.teacher = ema.average_of(generator)
        if not (spec.labelled or spec.global_):  # no other stream shows the target
            module.target_streams = ("mixed",)
    return module


class TrainStep:
    """The module, its optimizers and the step that trains them; the same on every rank."""

    def __init__(
        self,
        module: Adaptation,
        config: Config,
        runtime: Runtime,
        world: World = SINGLE_PROCESS,
    ) -> None:
        """Moves `module` to the device. UserError for an optimizer that is not available, or for
        CUDA graphs of a step that can't be one."""
        check_cuda_graphs(config, runtime, world)
        self.config, self.runtime, self.world = config, runtime, world
        self.module = module.to(runtime.device)
        self.ema_updates = 0
        self.self_training = self._self_training()
        self._adapt: bool | None = None  # the phase that `_forward` is made for
        self._parallel: DistributedDataParallel | None = None
        self._forward: nn.Module = self.module
        self.optimizers = self._optimizers()
        self.exchange_clock: ExchangeClock | None = None
        if world.size > 1:
            first = next(p for p in module.generator.parameters() if p.requires_grad)
            self.exchange_clock = ExchangeClock(runtime.device, first)
        self.backward = choose_backward(config, runtime.device, world)
        self.concurrent_backward: ConcurrentBackward | None = None
        if self.backward.kind == "concurrent":
            self.concurrent_backward = ConcurrentBackward()
        self.graph: GraphedStep | None = None
        if config.runtime.cuda_graph:
            self.graph = GraphedStep(self.update, self.optimizers, runtime.device)
        concurrent = self.concurrent_backward is not None
        self.micro_batches = MicroBatches(config, self.module, world, concurrent=concurrent)
        # Gradients that every stream adds to stay where they are: made anew among each step's
        # activations they would leave no room for the next one's. A distributed group has them in
        # its buckets. On CUDA the allocator has segments for each size.
        self._keeps_gradients = (
            self.backward.kind == "streamed" and runtime.device.type == "cpu" and not world.grouped
        )
        self._allocator = Allocator(runtime.tuned)
        self.scaler = torch.amp.GradScaler(
            runtime.device.type, enabled=runtime.amp_dtype == torch.float16
        )

    def _optimizers(self) -> dict[str, Optimizer]:
        """One optimizer per network, by its name in checkpoints."""
        optim, module = self.config.optim, self.module
        images = self.config.global_batch
        factor = batch_factor(optim, images)
        optimizers = {"generator": generator_optimizer(module.generator, optim, factor)}
        factor = batch_factor(optim, images, discriminators=True)
        for i, d_g in enumerate(module.global_discriminators):
            optimizers[f"global_{i}"] = discriminator_optimizer(d_g, optim, factor)
        if module.semantic_discriminator is not None:
            d_s = module.semantic_discriminator
            optimizers["semantic"] = discriminator_optimizer(d_s, optim, factor)
        return optimizers

    def _self_training(self) -> SelfTraining | None:
        teacher, config = self.module.teacher, self.config
        if teacher is None:
            return None
        return SelfTraining(
            teacher,
            self.module.generator,
            config.mixing,
            seed=config.seed,
            normalize=config.data.normalization(config.model.channels),
            world=self.world,
        )

    @property
    def generator(self) -> DeepLab:
        return self.module.generator

    @property
    def evaluated(self) -> DeepLab:
        """The generator that is evaluated: the running average of the weights where it is on."""
        average = self.module.average
        return self.generator if average is None else average

    @property
    def evaluated_target_statistics(self) -> TargetStatistics | None:
        """The target's running statistics of `evaluated`; None where its norms keep none."""
        module = self.module
        return (
            module.target_statistics if module.average is None else module.average_target_statistics
        )

    @contextlib.contextmanager
    def judged(self) -> Iterator[DeepLab]:
        """`evaluated` with the running statistics that `norm_statistics` chooses."""
        target = self.evaluated_target_statistics
        swap = target is not None and self.config.norm_statistics == "domain"
        with target.exchanged() if swap and target is not None else contextlib.nullcontext():
            yield self.evaluated

    def step(self, batches: Sequence[StepBatch], *, adapt: bool) -> LossTerms:
        """One optimizer step over `accumulate` batches → this rank's part of each term, detached.

        A term is a mean over the valid items of the whole step; the ranks' parts add up to it.

        adapt: run the method; False is the supervised start before it. Optimizers of networks
        that got no gradient (the discriminators during the start) do not step.
        """
        self.module.train()
        self._enter(adapt)
        mixes = adapt and self.self_training is not None
        if mixes and not self._runs_concurrently(batches):
            batches = self._with_mixed(batches)
        update = self.update if self.graph is None else self.graph.update
        terms = update(batches, adapt, ema.weight(self.config.ema, self.ema_updates))
        if self.module.average is not None:
            self.ema_updates += 1
        if mixes and self.self_training is not None:
            self.self_training.follow()
        self._allocator.stepped()
        return terms

    def update(
        self, batches: Sequence[StepBatch], adapt: bool, average_weight: float | Tensor
    ) -> LossTerms:
        """Forwards, backwards, optimizers, running statistics, the average: what `--cuda-graph`
        records. Nothing in it waits for the device.

        average_weight: of the weights in their running average.
        """
        with self._folding():
            results = self.micro_batches.run(lambda cut: self._gradients(cut, adapt), batches)
        terms = sum_terms([result.terms for result in results])
        in_order = sorted(results, key=lambda result: result.order)
        self.module.feed([s for result in in_order for s in result.seen])
        terms = self._agreed(terms)
        for optimizer in self.optimizers.values():
            if any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
                self.scaler.step(optimizer)
        self.module.zero_grad(set_to_none=not self._keeps_gradients)
        self.scaler.update()
        if self.module.average is not None:
            self._update_average(average_weight)
        return terms

    def _agreed(self, terms: LossTerms) -> LossTerms:
        """Called before the optimizers, when gradients and running statistics are complete; an
        elastic step exchanges them here."""
        return terms

    def _folding(self) -> contextlib.AbstractContextManager[None]:
        """Frozen norms are folded once per step on CUDA; a CPU rather saves the memory."""
        once = self.runtime.device.type == "cuda"
        return kernels.folded_once() if once else contextlib.nullcontext()

    def _with_mixed(self, batches: Sequence[StepBatch]) -> list[StepBatch]:
        """The batches of a step with their mixed ones, as D_g needs them: I_tu itself is for it."""
        assert self.self_training is not None
        with self._folding(), self.runtime.autocast():
            mixed = self.self_training.mixed(batches)
        clean = self.module.global_discriminators
        return [
            batch._replace(unlabelled=batch.unlabelled if clean else None, mixed=each)
            for batch, each in zip(batches, mixed, strict=True)
        ]

    def _update_average(self, weight: float | Tensor) -> None:
        """Move the averages of the weights and of the target's statistics towards them."""
        module = self.module
        assert module.average is not None
        ema.update(module.average, module.generator, weight)
        if module.average_target_statistics is not None:
            assert module.target_statistics is not None
            ema.update(module.average_target_statistics, module.target_statistics, weight)

    def _runs_concurrently(self, batches: Sequence[StepBatch]) -> bool:
        return self.concurrent_backward is not None and len(batches) == 1

    def _gradients(self, batches: Sequence[StepBatch], adapt: bool) -> list[Result]:
        """All forwards and backwards of a step → the results of its parts."""
        weights: Sequence[Sequence[float]] | Tensor = [[1.0] * len(LossTerms._fields)]
        if len(batches) > 1 or self.world.grouped:
            if self.exchange_clock is not None:
                self.exchange_clock.begin()
            weights = item_weights(self.module, batches, self.world)
            if self.exchange_clock is not None:
                self.exchange_clock.end()

        def run(part: Part) -> Result:
            return self._forward_and_backward(part, weights[part.number], adapt)

        if self.concurrent_backward is not None and self._runs_concurrently(batches):
            mixes = adapt and self.self_training is not None
            first, second = self._sides(batches[0], mixes)
            if first and second:
                return self.concurrent_backward.run(run, first, second)
        return [run(part) for part in self._parts(batches)]

    def _sides(self, batch: StepBatch, mixes: bool) -> tuple[list[Part], list[Part]]:
        """The parts of the two threads of a concurrent backward: the source's, the target's.

        The source's thread also makes the mixed batch, while the target's forwards the labelled
        one. The target's streams then share one backward, so each side adds one gradient to a
        parameter, and the sum does not depend on which comes first.
        """
        if not mixes:
            parts = [Part(stream, 0, last=True) for stream in streams_of(batch)]
            return parts[:1], parts[1:]
        mixed: Future[StepBatch] = Future()

        def mix() -> None:
            try:
                mixed.set_result(StepBatch(mixed=self._with_mixed([batch])[0].mixed))
            except BaseException as error:
                mixed.set_exception(error)  # which ends the thread that waits for it
                raise

        clean = batch.unlabelled if self.module.global_discriminators else None
        target = StepBatch(labelled=batch.labelled, unlabelled=clean)
        source = Part(StepBatch(source=batch.source), 0, last=True, before=mix)
        return [source], [Part(target, 0, last=True, then=mixed.result)]

    def _parts(self, batches: Sequence[StepBatch]) -> Iterator[Part]:
        """The parts that run one after the other: whole batches, or each of their streams.

        A streamed backward takes the streams in reverse, so that the source comes last. Its terms
        alone reach every network, so its backward, the one that exchanges gradients between the
        ranks, leaves none out.
        """
        for number, batch in enumerate(batches):
            streamed = self.backward.kind == "streamed"
            parts = streams_of(batch)[::-1] if streamed else [batch]
            for i, part in enumerate(parts, start=1):
                yield Part(part, number, last=number == len(batches) - 1 and i == len(parts))

    def _forward_and_backward(
        self, part: Part, weights: Sequence[float] | Tensor, adapt: bool
    ) -> Result:
        """Add the gradients of one part to those that are there → its weighted terms."""
        if part.before is not None:
            part.before()
        with self._exchange(part.last):
            alone = self.concurrent_backward is None
            with self.runtime.autocast(shares=alone), collected() as seen:
                if self.config.runtime.compile:
                    # CUDA graphs may reuse what the last forward returned.
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call, unused-ignore]
                terms = self._forward(part.batch, adapt=adapt)
                if part.then is not None:
                    terms = sum_terms([terms, self._forward(part.then(), adapt=adapt)])
                pairs = zip(terms, weights, strict=True)
                terms = LossTerms(*(None if t is None else w * t for t, w in pairs))
                # The exchange averages over the ranks, and the weights already do.
                total = objective(terms, self.config.loss) * self.world.size
            # Not where DDP's hooks wait for each gradient.
            together = self.runtime.device.type == "cuda" and not self.world.ddp
            with kernels.gradients_together(together):
                self.scaler.scale(total).backward()  # type: ignore[no-untyped-call, unused-ignore]
        if part.last and self.exchange_clock is not None:
            self.exchange_clock.end()
        terms = LossTerms(*(None if t is None else t.detach() for t in terms))
        return Result(part, terms, seen)

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
        if self.world.ddp:
            one_backward = self.backward.kind != "streamed" and self.config.accumulate == 1
            self._forward = self._parallel = wrap(
                self.module,
                self.world,
                one_backward=one_backward,
                compress=self.config.distributed.compress,
            )
        if self.config.runtime.compile:
            keep_channels_last()
            # Sizes are static: each stream's shape has a graph of its own from the first step on.
            self._forward = torch.compile(  # type: ignore[assignment]
                self._forward, mode=self.config.runtime.compile_mode, dynamic=False
            )

    def _exchange(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients of all parts but the last add up on each rank; the last one's are exchanged."""
        if self._parallel is None or last:
            return contextlib.nullcontext()
        return self._parallel.no_sync()

    def state(self) -> dict[str, Any]:
        """What the next step depends on beside the weights."""
        return {
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema_updates,
            "self_training": None if self.self_training is None else self.self_training.state(),
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        if self.graph is not None:
            self.graph.forget()
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])
        self.ema_updates = state.get("ema_updates", 0)
        if self.self_training is not None:
            self.self_training.load_state(state["self_training"])
        torch.set_rng_state(state["rng"])
