"""The one module on several ranks: gradients are averaged while the backward runs."""

import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import World

# Renamed in torch 2.13.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


def check_parallel(config: Config, runtime: Runtime, world: World) -> None:
    """UserError for what does not work on several ranks."""
    if world.size > 1 and config.model.norm == "sync" and runtime.device.type == "cpu":
        raise UserError(
            "model.norm: sync needs CUDA on several ranks, torch has no CPU form of it; "
            "use --model-norm frozen or batch"
        )


def wrap(module: nn.Module, config: Config, world: World) -> DistributedDataParallel:
    """`module` whose backward averages the gradients of the parameters that now require them.

    Every backward outside `no_sync()` must reach all of these parameters. Buffers stay each
    rank's own: see `average_statistics`.
    """
    whole = config.backward != "streamed" and config.accumulate == 1
    parallel = DistributedDataParallel(
        module,
        **_OWN_BUFFERS,
        gradient_as_bucket_view=True,
        static_graph=whole,  # with no_sync() its first step would wait for an exchange never begun
    )
    if config.distributed.compress:
        parallel.register_comm_hook(world.size, _average_in_bf16)
    return parallel


def _average_in_bf16(size: int, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Exchange one bucket of gradients in bf16. torch's own hook of this kind needs NCCL."""
    gradients = bucket.buffer()
    half = gradients.to(torch.bfloat16).div_(size)
    work = dist.all_reduce(half, async_op=True)
    return work.get_future().then(lambda done: gradients.copy_(done.value()[0]))


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
