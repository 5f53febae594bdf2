"""Batch normalisation in training, with what follows it in a residual network:

    y = ReLU(weight · (x − mean) / √(variance + eps) + bias + residual)

with the mean and variance of the batch; residual and ReLU are optional.
Shapes: x, y and residual [B,N,h,w]; weight, bias, mean and variance [N].

On a CPU in fp32 with channels-last maps one native routine does all of it, in two passes over the
maps forward and two backward; torch takes three and five. Elsewhere it is torch's operators.
Saved for backward: x, y and two vectors.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastass.kernels import dispatch
from fastass.kernels.convolution import batch_norm_cpu as cpu
from fastass.kernels.convolution.cpu_forms import has_cpu_forms
from fastass.kernels.convolution.running_statistics import destination, is_deferred


def batch_norm(
    x: Tensor, norm: nn.Module, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """y; the running statistics change as `norm` changes them, or later inside `deferred`.

    norm: any module from [B,N,h,w] to the same shape. Only a training `nn.BatchNorm2d` gets the
    native routine.
    """
    if not _fits(x, residual, norm):
        y: Tensor = _deferring(x, norm) if is_deferred() and _has_running(norm) else norm(x)
        if residual is not None:
            y = y + residual
        return F.relu(y, inplace=True) if relu else y
    assert isinstance(norm, nn.BatchNorm2d)
    statistics = (*destination(norm), norm.eps)
    return _native(x, residual, norm.weight, norm.bias, *statistics, relu)


def _deferring(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """torch's batch norm, whose running statistics change later."""
    mean, variance, momentum = destination(norm)
    assert momentum is not None
    weights = (norm.weight, norm.bias)
    return F.batch_norm(x, mean, variance, *weights, True, momentum, norm.eps)


def _has_running(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a forward changes running statistics by a moving average."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.track_running_stats
        and norm.momentum is not None
    )


def _fits(x: Tensor, residual: Tensor | None, norm: nn.Module) -> bool:
    """Whether the native routine supports them: the usual case of training on a CPU."""
    return (
        _has_running(norm)
        and norm.affine
        and has_cpu_forms(x)
        and x.numel() > x.shape[1]  # one value has no variance, and torch says so
        and (residual is None or (residual.shape == x.shape and has_cpu_forms(residual)))
        and dispatch.resolve(x.device) == "native"
    )


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        y, mean, inverse = cpu.forward(
            x,
            residual,
            weight,
            bias,
            running_mean,
            running_var,
            relu=relu,
            momentum=momentum,
            eps=eps,
        )
        ctx.save_for_backward(x, y if relu else None, mean, inverse, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, inverse, weight = ctx.saved_tensors
        to_x, to_residual, to_weight, to_bias, *_ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        # Without a ReLU the residual's gradient is the incoming one.
        copied = to_residual and y is not None
        of_x, of_residual, of_weight, of_bias = cpu.backward(
            gradient, x, y, mean, inverse, weight, residual=copied
        )
        return (
            of_x if to_x else None,
            of_residual if copied else gradient if to_residual else None,
            of_weight if to_weight else None,
            of_bias if to_bias else None,
            *(None,) * 5,
        )


_native: Callable[..., Tensor] = _BatchNorm.apply
