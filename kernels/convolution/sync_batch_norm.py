"""Batch normalisation over the images of all ranks, for CPU ranks; torch has it for GPUs alone.

    forward    n = Σ n_r        mean = Σ n_r mean_r / n
               M = Σ (M_r + n_r (mean_r − mean)²)       variance = M / n
               x̂ = (x − mean) / √(variance + eps)       y = weight · x̂ + bias
    backward   dx = weight / √(variance + eps) · (dy − Σ dy / n − x̂ Σ dy x̂ / n)

The sums run over ranks, images and pixels. n_r, mean_r and M_r, the sum of squared deviations, are
those of one rank (Chan, Golub and LeVeque 1979), which may have any number of images. Each forward
exchanges 2N + 1 numbers per rank, and each backward 2N. The gradients of weight and bias stay each
rank's own, as every other parameter's do until the ranks exchange them.

Every rank must forward and run backward the same norms in the same order.
Saved for backward: x and three vectors.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastass.kernels.convolution.running_statistics import destination

AXES = (0, 2, 3)


def is_for_cpu_ranks(norm: nn.Module, x: Tensor) -> TypeGuard[nn.SyncBatchNorm]:
    """Whether `norm` must combine the statistics of several CPU ranks for x."""
    return (
        type(norm) is nn.SyncBatchNorm
        and norm.training
        and x.device.type == "cpu"
        and dist.is_available()
        and dist.is_initialized()
        and dist.get_world_size(norm.process_group) > 1
    )


def sync_batch_norm(x: Tensor, norm: nn.SyncBatchNorm) -> Tensor:
    """y [B,N,h,w] of a norm in training. Its running statistics become those of all ranks' images.

    Inside `collected` the statistics go to the list. ValueError where all ranks together have one
    value per channel.
    """
    y: Tensor
    y, mean, variance, count = _apply(x, norm.weight, norm.bias, norm.eps, norm.process_group)
    if norm.track_running_stats:
        running_mean, running_variance, momentum = destination(norm)
        if momentum is None:  # the plain average over all batches
            assert norm.num_batches_tracked is not None
            momentum = 1.0 / float(norm.num_batches_tracked)
        assert running_mean is not None
        assert running_variance is not None
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            unbiased = variance * (count / (count - 1))
            running_variance.lerp_(unbiased.to(running_variance), momentum)
    return y


class _SyncBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        group: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        precise = x if x.dtype == torch.float64 else x.float()
        mean, variance, count = _combine(*_own(precise), group)
        if count <= 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {x.shape} "
                "as the only one of all ranks"
            )
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        y = torch.addcmul(_on_maps(shift), precise, _on_maps(scale)).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.count, ctx.group = float(count), group
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        to_x, to_weight, to_bias, *_ = ctx.needs_input_grad
        dy = gradient.to(mean.dtype)
        normalised = (x.to(mean.dtype) - _on_maps(mean)) * _on_maps(inverse)
        sums = torch.stack([dy.sum(AXES), (dy * normalised).sum(AXES)])
        own = sums.clone()
        of_x = None
        if to_x:
            dist.all_reduce(sums, group=ctx.group)
            by_mean, by_variance = sums / ctx.count
            scale = inverse if weight is None else inverse * weight
            of_x = dy - _on_maps(by_mean) - normalised * _on_maps(by_variance)
            of_x = (of_x * _on_maps(scale)).to(x.dtype)
        return (
            of_x,
            own[1].to(weight.dtype) if to_weight else None,
            own[0].to(weight.dtype) if to_bias else None,
            None,
            None,
        )


_apply: Callable[..., Any] = _SyncBatchNorm.apply


def _own(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """(mean [N], sum of squared deviations [N], number of values per channel) of this rank."""
    count = x.numel() // x.shape[1]
    if count == 0:
        return x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1]), 0
    variance, mean = torch.var_mean(x, AXES, correction=0)
    return mean, variance * count, count


def _combine(
    mean: Tensor, deviations: Tensor, count: int, group: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean [N], variance [N], count []) over all ranks, to the bit the same on each."""
    own = torch.cat([mean, deviations, mean.new_tensor([count])])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    every = torch.stack(gathered)
    counts = every[:, -1:]
    means, deviations = every[:, :-1].chunk(2, dim=1)
    total = counts.sum()
    mean = (counts * means).sum(dim=0) / total
    between = (counts * (means - mean).square()).sum(dim=0)
    return mean, (deviations.sum(dim=0) + between) / total, total


def _on_maps(vector: Tensor) -> Tensor:
    return vector[:, None, None]
