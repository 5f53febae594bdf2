"""Batch normalisation in training, with what follows it in a residual network:

    y = ReLU(weight · (x − mean) / √(variance + eps) + bias + residual)

with the mean and variance of the batch; residual and ReLU are optional.
Shapes: x, y and residual [B,N,h,w]; weight, bias, mean and variance [N].

On a CPU in fp32 with channels-last maps one native routine does all of it, in two passes over the
maps forward and two backward; torch takes three and five. On CUDA it is torch's batch norm, with
residual and ReLU in one Triton kernel, or all of it in Triton (`norm/`). For `nn.SyncBatchNorm` on
several CPU ranks, which torch refuses, it is `sync_batch_norm`. Elsewhere it is torch's operators.
Saved for backward: x, y and two vectors.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from fastass.kernels import dispatch
from fastass.kernels.convolution import batch_norm_cpu as cpu
from fastass.kernels.convolution.cpu_forms import has_cpu_forms
from fastass.kernels.convolution.epilogue import convolution_epilogue_
from fastass.kernels.convolution.norm import op as fused
from fastass.kernels.convolution.running_statistics import (
    Norm,
    destination,
    has_running,
    is_collecting,
)
from fastass.kernels.convolution.sync_batch_norm import is_for_cpu_ranks, sync_batch_norm


def batch_norm(
    x: Tensor, norm: nn.Module, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """y; the running statistics change as `norm` changes them, or not at all inside `collected`.

    norm: any module from [B,N,h,w] to the same shape. Only a training `nn.BatchNorm2d` gets the
    native routine.
    """
    y: Tensor
    if fused.fits(x, norm):
        assert isinstance(norm, nn.BatchNorm2d)
        residual = None if residual is None else residual.to(x.dtype)
        return _fused(x, residual, norm.weight, norm.bias, norm, relu)
    if not _fits(x, residual, norm):
        if is_for_cpu_ranks(norm, x):
            y = sync_batch_norm(x, norm)
        else:
            y = _collecting(x, norm) if is_collecting() and has_running(norm) else norm(x)
        if residual is not None:
            if relu and _is_one_kernel(y, residual, norm):
                return _sum_relu(y, residual)
            y = y + residual
        return F.relu(y, inplace=True) if relu else y
    assert isinstance(norm, nn.BatchNorm2d)
    statistics = (*destination(norm), norm.eps)
    return _native(x, residual, norm.weight, norm.bias, *statistics, relu)


def _collecting(x: Tensor, norm: Norm) -> Tensor:
    """torch's batch norm, whose batch statistics are collected."""
    mean, variance, momentum = destination(norm)
    assert momentum is not None
    if not isinstance(norm, nn.SyncBatchNorm):
        weights = (norm.weight, norm.bias)
        return F.batch_norm(x, mean, variance, *weights, True, momentum, norm.eps)
    assert norm.num_batches_tracked is not None
    counter = norm.num_batches_tracked.clone()
    buffers = {"running_mean": mean, "running_var": variance, "num_batches_tracked": counter}
    own, norm.momentum = norm.momentum, momentum
    try:
        return functional_call(norm, buffers, x)  # type: ignore[arg-type, no-any-return, unused-ignore]
    finally:
        norm.momentum = own


def _fits(x: Tensor, residual: Tensor | None, norm: nn.Module) -> bool:
    """Whether the native routine supports them: the usual case of training on a CPU."""
    return (
        type(norm) is nn.BatchNorm2d
        and has_running(norm)
        and norm.affine
        and has_cpu_forms(x)
        and x.numel() > x.shape[1]  # one value has no variance, and torch says so
        and (residual is None or (residual.shape == x.shape and has_cpu_forms(residual)))
        and dispatch.resolve(x.device) == "native"
    )


def _is_one_kernel(y: Tensor, residual: Tensor, norm: nn.Module) -> bool:
    """Whether the sum may be written over y, the output of the norm, by the Triton kernel."""
    return (
        type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)  # their backward does not read y
        and not torch.compiler.is_compiling()
        and y.dtype == residual.dtype
        and y.dtype != torch.float64
        and y.device.type == "cuda"
        and dispatch.resolve(y.device) == "triton"
    )


class _SumReLU(torch.autograd.Function):
    """ReLU(y + residual), written over y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, residual: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        y = convolution_epilogue_(y, None, residual, relu=True)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (y,) = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        return gradient, gradient


_sum_relu: Callable[..., Tensor] = _SumReLU.apply


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


class _FusedBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm2d,
        relu: bool,
    ) -> Tensor:
        y, mean, inverse = fused.forward(x, norm, residual, relu)
        apart = relu and residual is not None
        ctx.save_for_backward(x, weight, bias, mean, inverse, y if apart else None)
        ctx.relu = relu and not apart
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse, y = ctx.saved_tensors
        to_x, to_residual, to_weight, to_bias, *_ = ctx.needs_input_grad
        if y is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        of_x, of_weight, of_bias = fused.backward(
            gradient, x, weight, bias, mean, inverse, ctx.relu
        )
        return (
            of_x if to_x else None,
            gradient if to_residual else None,
            of_weight if to_weight else None,
            of_bias if to_bias else None,
            None,
            None,
        )


_fused: Callable[..., Tensor] = _FusedBatchNorm.apply
_native: Callable[..., Tensor] = _BatchNorm.apply
