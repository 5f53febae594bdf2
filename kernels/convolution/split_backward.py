"""A convolution's two gradients, each in the memory layout that is fastest for it on a CPU.

oneDNN computes the output and the gradient of the input fast in channels-last memory, but the
gradient of the weight at two thirds of the rate that it has in NCHW (measured: torch 2.13,
AVX-512). So that gradient is computed

- from NCHW copies, which cost a tenth of what they save;
- for a 1×1 convolution as one matrix product;
- for a classifier's 19 outputs as the gradient of the convolution from outputs to inputs, where the
  many channels fill oneDNN's blocks.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastass.kernels.convolution.cpu_forms import has_cpu_forms
from fastass.kernels.layout import rows_of

Pair = tuple[int, int]
Geometry = tuple[Pair, Pair, Pair]  # stride, padding, dilation
Wanted = tuple[bool, bool, bool]  # the gradient of the input, the weight, the bias
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class _SplitBackward(torch.autograd.Function):
    """`F.conv2d`, whose backward is `split_gradients`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *split_gradients(gradient, x, weight, ctx.geometry, wanted), None


# (x, weight, bias, geometry) → y
split_conv2d: Callable[..., Tensor] = _SplitBackward.apply


def splits(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the two gradients are faster apart."""
    return (_is_wide(weight) or _is_narrow(weight, geometry)) and has_cpu_forms(x)


def _is_wide(weight: Tensor) -> bool:
    # With 96 channels the copies cost more than they save.
    return max(weight.shape[:2]) >= 128 and min(weight.shape[:2]) >= 64


def _is_narrow(weight: Tensor, geometry: Geometry) -> bool:
    """A classifier: fewer outputs than oneDNN's blocks of 32; the output has the input's size."""
    stride, padding, dilation = geometry
    outputs, inputs, *kernel = weight.shape
    same = all(2 * p == d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True))
    return outputs < 32 and inputs >= 64 and stride == (1, 1) and same


def split_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Wanted
) -> Gradients:
    """The gradients that are `wanted`, for x and weight that `splits`."""
    to_x, to_weight, to_bias = wanted
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    of_x = of_weight = of_bias = None
    if to_x:
        of_x, _, _ = torch_gradients(gradient, x, weight, geometry, (True, False, False))
    if to_weight and weight.shape[2:] == (1, 1) and geometry[0] == (1, 1):
        # Written into a tensor that has the weight's own strides and is no view. Otherwise its sum
        # with other streams' gradients has other strides than DistributedDataParallel expects.
        of_weight = torch.empty_like(weight)
        torch.mm(rows_of(gradient).t(), rows_of(x), out=of_weight[..., 0, 0])
    elif to_weight and _is_narrow(weight, geometry):
        of_weight = _turned_round(gradient, x, weight, geometry)
    elif to_weight:
        g, x, weight = (t.contiguous() for t in (gradient, x, weight))
        _, of_weight, _ = torch_gradients(g, x, weight, geometry, (False, True, False))
    if to_bias:
        of_bias = gradient.sum(dim=(0, 2, 3))
    return of_x, of_weight, of_bias


def _turned_round(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The weight's gradient as that of the convolution from the outputs to the inputs: its taps are
    the same sums, mirrored."""
    turned = torch.empty_like(weight.transpose(0, 1))
    _, of_turned, _ = torch_gradients(x, gradient, turned, geometry, (False, True, False))
    assert of_turned is not None
    return torch.empty_like(weight).copy_(of_turned.transpose(0, 1).flip(2, 3))


def torch_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Wanted
) -> Gradients:
    """The gradients that are `wanted`, as torch computes them."""
    stride, padding, dilation = geometry
    bias = [weight.shape[0]]
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        gradient, x, weight, bias, stride, padding, dilation, False, (0, 0), 1, wanted
    )
    return of_x, of_weight, of_bias
