"""The one module on several ranks: gradients are averaged while the backward runs."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from fastass.config import Config
from fastass.distributed import World
from fastass.errors import UserError
from fastass.execution import Execution

# Renamed in torch 2.13.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


def check_parallel(config: Config, execution: Execution, world: World) -> None:
    """UserError for what does not work on several ranks."""
    if world.size > 1 and config.model.norm == "sync" and execution.device.type == "cpu":
        raise UserError(
            "model.norm: sync needs CUDA on several ranks, torch has no CPU form of it; "
            "use --model-norm frozen or batch"
        )


def wrap(module: nn.Module, config: Config, world: World) -> DistributedDataParallel:
    """`module` whose backward averages the gradients of the parameters that now require them.

    Every backward outside `no_sync()` must reach all of these parameters. Buffers stay each
    rank's own: see `average_statistics`.
    """
    whole = config.backward == "fused" and config.accumulate == 1
    parallel = DistributedDataParallel(
        module,
        **_OWN_BUFFERS,
        gradient_as_bucket_view=True,
        static_graph=whole,  # with no_sync() its first step would wait for an exchange never begun
    )
    if config.distributed.compress:
        parallel.register_comm_hook(None, bf16_compress_hook)
    return parallel


def average_statistics(module: nn.Module, world: World) -> None:
    """Make the running statistics of batch norm those of all ranks.

    They are linear in the batches' statistics, so it does not matter when or how often this is
    done; it is, before they are used or saved.
    """
    statistics = []
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None:
            assert part.running_var is not None
            statistics += [part.running_mean, part.running_var]
    with torch.no_grad():
        world.mean(statistics)
