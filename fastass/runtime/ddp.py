"""Data-parallel training on several ranks: gradients are averaged while the backward runs."""

import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined, unused-ignore]
from torch.futures import Future
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.models.domain_statistics import TargetStatistics
from fastass.runtime.process_group import World

# Renamed in torch 2.13.
_NEW_NAME = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEW_NAME else "broadcast_buffers": False}


def check_parallel(config: Config, device: torch.device, world: World) -> None:
    """UserError for what does not work on several ranks of this kind of device."""
    sync = config.model.norm == "sync" and config.runtime.compile
    if world.size > 1 and sync and device.type == "cpu":
        raise UserError(
            "model.norm: sync on several CPU ranks exchanges statistics in the forward, which "
            "--compile does not support; leave out --compile, or use --model-norm frozen or batch"
        )


def wrap(
    module: nn.Module, world: World, *, one_backward: bool, compress: bool
) -> DistributedDataParallel:
    """`module`, whose backward averages the gradients of the parameters that now require them.

    Every backward outside `no_sync()` must reach all of these parameters. Buffers stay each
    rank's own: see `average_statistics`.

    one_backward: each step has a single backward. compress: exchange gradients in bf16.
    """
    parallel = _Parallel(
        module,
        **_OWN_BUFFERS,
        gradient_as_bucket_view=True,
        # With no_sync() the first step of a static graph would wait for an exchange never begun.
        static_graph=one_backward,
    )
    if compress:
        parallel.register_comm_hook(world.size, _average_in_bf16)
    return parallel


class _Parallel(DistributedDataParallel):
    """Also of synchronised norms on a CPU, whose exchange is `kernels.batch_norm`'s own."""

    def _passing_sync_batchnorm_handle(self, module: nn.Module) -> None:
        """Torch's refusal of `nn.SyncBatchNorm` on anything but a GPU is left out."""


def _average_in_bf16(size: int, bucket: GradBucket) -> Future[Tensor]:
    """Exchange one bucket of gradients in bf16. PyTorch's own hook of this kind needs NCCL."""
    gradients = bucket.buffer()
    half = gradients.to(torch.bfloat16).div_(size)
    work = dist.all_reduce(half, async_op=True)
    assert work is not None
    averaged: Future[Tensor] = work.get_future().then(lambda done: gradients.copy_(done.value()[0]))
    return averaged


def average_statistics(module: nn.Module, world: World) -> None:
    """Replace the running statistics of batch norm by their means over all ranks.

    They are linear in the batches' statistics, so it does not matter when or how often they are
    averaged, as long as it happens before they are used or saved.
    """
    with torch.no_grad():
        world.mean(running_statistics(module))


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The running statistics of batch norm in `module`, those of all streams and the target's."""
    statistics: list[Tensor] = []
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None:
            assert part.running_var is not None
            statistics += [part.running_mean, part.running_var]
        elif isinstance(part, TargetStatistics):
            statistics += part.buffers()
    return statistics
