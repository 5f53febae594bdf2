"""A training batch norm with what follows it, by Triton on a GPU:

    y = ReLU(weight · (x − mean) / √(variance + eps) + bias + residual)

Shapes: x, y and residual [B,N,h,w], channels-last, in float32, bfloat16 or float16; weight, bias,
mean and variance [N] float32. The statistics are taken in float32. A map is read twice and written
once, forward as well as backward, with residual and ReLU in the same passes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastass.kernels import dispatch
from fastass.kernels.checks import FLOATS
from fastass.kernels.convolution.running_statistics import destination, has_running
from fastass.kernels.layout import contiguous_rows, map_of

_used = False


def use_fused_batch_norm(wanted: bool) -> None:
    """Whether training batch norms on a GPU are these kernels or torch's; a process-wide choice."""
    global _used
    _used = wanted


def fits(x: Tensor, norm: nn.Module) -> bool:
    """Whether these kernels run for a norm and a map, outside `torch.compile`."""
    return (
        _used
        and type(norm) is nn.BatchNorm2d
        and has_running(norm)
        and norm.affine
        and norm.weight.dtype == torch.float32
        and x.dtype in FLOATS
        and x.numel() > x.shape[1]  # one value has no variance, and torch says so
        and x.device.type == "cuda"
        and not torch.compiler.is_compiling()
        and dispatch.resolve(x.device) == "triton"
    )


def forward(
    x: Tensor, norm: nn.BatchNorm2d, residual: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean, 1 / √(variance + eps). The running statistics change as `norm` changes them."""
    x = x.contiguous(memory_format=torch.channels_last)  # once for the two
    mean, variance = moments(x, norm.weight)
    y, inverse = apply(x, norm, mean, variance, residual, relu)
    return y, mean, inverse


def moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the batch. weight: of the norm."""
    from fastass.kernels.convolution.norm import gpu

    return gpu.moments(contiguous_rows(x), weight)


def pointwise(x: Tensor, weight: Tensor, of_norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A 1×1 convolution and the moments of its output: y [B,M,h,w], channels-last; [M]; [M].

    weight [M,N] in x's dtype, both counts multiples of 64.
    """
    from fastass.kernels.convolution.norm import pointwise_gpu as gpu

    y, mean, variance = gpu.pointwise(contiguous_rows(x), weight, of_norm)
    return map_of(y, x.shape[0], x.shape[2:]), mean, variance


def apply(
    x: Tensor,
    norm: nn.BatchNorm2d,
    mean: Tensor,
    variance: Tensor,
    residual: Tensor | None,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """y, 1 / √(variance + eps). The running statistics change as `norm` changes them."""
    from fastass.kernels.convolution.norm import gpu

    running_mean, running_var, momentum = destination(norm)
    assert running_mean is not None
    assert running_var is not None
    assert momentum is not None
    y, inverse = gpu.apply(
        contiguous_rows(x),
        None if residual is None else contiguous_rows(residual),
        norm.weight,
        norm.bias,
        mean,
        variance,
        running_mean,
        running_var,
        relu=relu,
        momentum=momentum,
        eps=norm.eps,
    )
    return map_of(y, x.shape[0], x.shape[2:]), inverse


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias. relu: there was one, and no residual before it."""
    from fastass.kernels.convolution.norm import gpu

    of_x, of_weight, of_bias = gpu.backward(
        contiguous_rows(gradient), contiguous_rows(x), weight, bias, mean, inverse, relu=relu
    )
    return map_of(of_x, x.shape[0], x.shape[2:]), of_weight, of_bias
