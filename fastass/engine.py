"""The networks, their optimizers and one optimizer step."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastass.adaptation import Adaptation, Modules, Streams, Terms, objective
from fastass.config import Config
from fastass.execution import Execution
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.models.discriminators import (
    FeatureDiscriminator,
    GlobalDiscriminator,
    PixelDiscriminator,
)
from fastass.optim import discriminator_optimizer, generator_optimizer


def build(config: Config, modules: Modules) -> Adaptation:
    """G, D_g and D_s of a method with random weights, a pure function of `config.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = build_deeplab(config.model)
        classes, size = config.model.num_classes, config.discriminator
        levels = (2 if config.model.heads == "multi" else 1) if modules.global_ else 0
        d_g = [GlobalDiscriminator(classes, size.width) for _ in range(levels)]
        d_s: FeatureDiscriminator | PixelDiscriminator | None = None
        if modules.semantic == "fcsa":
            d_s = FeatureDiscriminator(generator.features, classes, size.hidden)
        elif modules.semantic == "csa":
            d_s = PixelDiscriminator(generator.features, classes, size.hidden)
    return Adaptation(generator, d_g, d_s, config.loss)


class Engine:
    """The module, its optimizers and the step that trains them."""

    def __init__(self, module: Adaptation, config: Config, execution: Execution) -> None:
        self.config, self.execution = config, execution
        self.module = module.to(execution.device)
        self.forward: nn.Module = torch.compile(module) if config.compile else module  # type: ignore[assignment]
        self.optimizers: dict[str, Optimizer] = {
            "generator": generator_optimizer(module.generator, config)
        }
        for i, d_g in enumerate(module.global_discriminators):
            self.optimizers[f"global_{i}"] = discriminator_optimizer(d_g, config)
        if module.semantic_discriminator is not None:
            self.optimizers["semantic"] = discriminator_optimizer(
                module.semantic_discriminator, config
            )
        self.scaler = torch.amp.GradScaler(
            execution.device.type, enabled=execution.amp_dtype == torch.float16
        )

    @property
    def generator(self) -> DeepLab:
        return self.module.generator

    def step(self, batches: Sequence[Streams], *, adapt: bool) -> Terms:
        """One optimizer step over `accumulate` batches → the mean of each term, detached.

        adapt: the method; else the supervised start that precedes it. Optimizers of modules
        that got no gradient (the discriminators during the start) do not step.
        """
        self.module.train()
        sums: list[Tensor | None] = [None] * len(Terms._fields)
        for streams in self._parts(batches):
            with self.execution.autocast():
                terms = self.forward(streams, adapt=adapt)
                total = objective(terms, self.config.loss) / len(batches)
            self.scaler.scale(total).backward()
            for i, term in enumerate(terms):
                if term is not None:
                    share = term.detach() / len(batches)
                    sums[i] = share if sums[i] is None else sums[i] + share
        for optimizer in self.optimizers.values():
            if any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
                self.scaler.step(optimizer)
                optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        return Terms(*sums)

    def _parts(self, batches: Sequence[Streams]) -> Iterator[Streams]:
        """What one forward and backward takes: a whole batch, or (`streamed`) each of its streams.

        The streams' terms share no activations, so the gradients are the same.
        """
        for streams in batches:
            if self.config.backward == "fused":
                yield streams
            else:
                named = streams._asdict().items()
                yield from (Streams(**{n: s}) for n, s in named if s is not None)

    def state(self) -> dict[str, Any]:
        """Everything beside the weights that the next step depends on."""
        return {
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
