"""A running average of the generator's weights (EMA), which is evaluated in their place.

It is a second DeepLab inside the trained module, named `average`. So checkpoints hold it, a resumed
run continues it, and predictions find it.
"""

import copy

import torch
from torch import nn

from fastass.models.deeplab import DeepLab


def average_of(generator: DeepLab) -> DeepLab:
    """A copy that no optimizer trains."""
    average = copy.deepcopy(generator)
    average.requires_grad_(False)
    return average


@torch.no_grad()
def update(average: nn.Module, generator: nn.Module, decay: float, updates: int) -> None:
    """average ← d · average + (1 − d) · weights, running statistics included; counters are copied.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is forgotten soon.
    """
    d = min(decay, (1 + updates) / (10 + updates))
    theirs = generator.state_dict()
    pairs = [(own, theirs[name]) for name, own in average.state_dict().items()]
    floating = [(own, value) for own, value in pairs if own.is_floating_point()]
    own, values = map(list, zip(*floating, strict=True))
    torch._foreach_lerp_(own, values, 1 - d)
    for counter, value in pairs:
        if not counter.is_floating_point():
            counter.copy_(value)
