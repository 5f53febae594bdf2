"""The batch norms of other packages' networks, whose batch statistics go where ours go.

A step decides which running statistics a forward feeds (`kernels.convolution.running_statistics`),
so a norm must hand its batch statistics over. Inside a backward, where activation checkpointing
runs a forward again, it keeps none.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastass.errors import UserError
from fastass.kernels.convolution.running_statistics import (
    collected,
    destination,
    is_collecting,
)


class _Collecting:
    """Mixed into a subclass of `nn.BatchNorm2d`. timm's has a dropout and an activation in it."""

    def forward(self, x: Tensor) -> Tensor:
        norm = cast(nn.BatchNorm2d, self)
        again = torch._C._current_graph_task_id() != -1  # a forward that a backward has asked for
        if not (norm.training and norm.track_running_stats and (again or is_collecting())):
            return cast(Tensor, super().forward(x))  # type: ignore[misc]
        if again:  # as many tensors as before are kept for the backward, but not these
            with collected():
                mean, variance, momentum = destination(norm)
        else:
            mean, variance, momentum = destination(norm)
        assert momentum is not None
        weights = (norm.weight, norm.bias)
        y = F.batch_norm(x, mean, variance, *weights, True, momentum, norm.eps)
        for part in ("drop", "act"):
            if (module := norm._modules.get(part)) is not None:
                y = module(y)
        return y


_CLASSES: dict[type, type] = {}


def collect_batch_statistics(network: nn.Module, backbone: str) -> None:
    """Change the batch norms of `network` in place. UserError for kinds that this can't do."""
    for name, norm in network.named_modules():
        if not isinstance(norm, _BatchNorm) or isinstance(norm, _Collecting):
            continue
        kind: Any = type(norm)
        if not isinstance(norm, nn.BatchNorm2d):
            raise UserError(
                f"model.backbone: {backbone}: its norm {name} is a {kind.__name__}, and only "
                "BatchNorm2d is supported; choose another backbone"
            )
        if kind not in _CLASSES:
            _CLASSES[kind] = type(f"Collecting{kind.__name__}", (_Collecting, kind), {})
        norm.__class__ = _CLASSES[kind]
