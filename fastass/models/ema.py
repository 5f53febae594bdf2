"""A running average of the generator's weights (EMA), which is evaluated in their place.

It is a second DeepLab inside the trained module, named `average`. So checkpoints hold it, a resumed
run continues it, and predictions find it.
"""

import copy

import torch
from torch import Tensor, nn

from fastass.models.deeplab import DeepLab


def average_of(generator: DeepLab) -> DeepLab:
    """A copy that no optimizer trains."""
    average = copy.deepcopy(generator)
    average.requires_grad_(False)
    return average


def weight(decay: float, updates: int) -> float:
    """1 − d of the next update, d = min(decay, (1 + n) / (10 + n)) after n updates, so that the
    random start is forgotten soon."""
    return 1 - min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def update(average: nn.Module, generator: nn.Module, weight: float | Tensor) -> None:
    """average ← d · average + (1 − d) · weights, running statistics included; counters are copied.

    weight: 1 − d. A tensor (0-d, of the device) is read when the update runs, as a CUDA graph needs
    it, in one kernel per vector.
    """
    theirs = generator.state_dict()
    pairs = [(own, theirs[name]) for name, own in average.state_dict().items()]
    floating = [(own, value) for own, value in pairs if own.is_floating_point()]
    own, values = map(list, zip(*floating, strict=True))
    if isinstance(weight, Tensor):
        torch._foreach_lerp_(own, values, [weight] * len(own))
    else:
        torch._foreach_lerp_(own, values, weight)
    for counter, value in pairs:
        if not counter.is_floating_point():
            counter.copy_(value)
