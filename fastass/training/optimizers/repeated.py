"""SGD that updates some weights several times per step, as AdaptSegNet's optimizer does.

Its function that collects the backbone's parameters walks through every module of every layer and
takes all parameters below it. So it gives a block's convolution three times (from the layer, the
block and the convolution itself), a shortcut's four times, and the first convolution once, and SGD
takes each as often: with the same gradient, and with the momentum and the weight as the update
before has left them.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fastass.training.optimizers.torch_eager import without_guards


class Repeating(torch.optim.SGD):
    """Groups say in `updates` how often their weights are updated."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        groups: list[dict[str, Any]] = self.param_groups
        try:
            for done in range(max(group["updates"] for group in groups)):
                self.param_groups = [group for group in groups if group["updates"] > done]
                _step_once(self)
        finally:
            self.param_groups = groups


_step_once = inspect.unwrap(torch.optim.SGD.step)
RepeatedSGD = without_guards(Repeating)


def by_updates(groups: Iterable[dict[str, Any]], backbone: nn.Module) -> list[dict[str, Any]]:
    """The groups divided by the number of updates that AdaptSegNet gives a ResNet's weights."""
    updates = {id(p): _updates(name) for name, p in backbone.named_parameters()}
    parts = []
    for group in groups:
        for count in (1, 3, 4):
            chosen = [p for p in group["params"] if updates.get(id(p), 1) == count]
            if chosen:
                parts.append({**group, "params": chosen, "updates": count})
    return parts


def _updates(name: str) -> int:
    if not name.startswith("layer"):
        return 1
    return 4 if ".downsample." in name else 3
