"""A 4×4 convolution of stride 2 and padding 1, with the leaky ReLU after it.

    y[:,:,p,q] = LeakyReLU(bias + Σ_{c,k,l} weight[:,c,k,l] x[:,c,2p+k−1,2q+l−1])

Shapes: x [B,C,H,W], weight [O,C,4,4], bias [O] → y [B,O,⌊H/2⌋,⌊W/2⌋].

On a CPU in fp32 with channels-last maps narrow layers run in Winograd's form F(3×3, 2×2) on cells
of 2×2 pixels, with 2.25 times fewer multiplications, less what tiles overhang the map's edge. The
leaky ReLU is part of the same pass, forward and backward. Elsewhere both are torch's operators.
Neither function is differentiable: `leaky_conv_stack` makes an operator of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.kernels.convolution.conv2d import conv2d_gradients
from fastass.kernels.convolution.cpu_forms import has_winograd
from fastass.kernels.convolution.winograd import conv4x4_stride2_cpu as cpu

_GEOMETRY = ((2, 2), (1, 1), (1, 1))  # stride, padding, dilation
_CHANNELS = 16  # the outputs are a multiple of it, and two pixels have at least as many inputs
_PRODUCT = 64 * 128  # of both channels, at most: the transformed weight (2 MiB) stays in a cache


def conv4x4_stride2(
    x: Tensor, weight: Tensor, bias: Tensor, negative_slope: float | None
) -> Tensor:
    """y. negative_slope: of the leaky ReLU; None leaves it out."""
    if _fits(x, weight):
        return cpu.convolve(x, weight, bias, 1.0 if negative_slope is None else negative_slope)
    y = F.conv2d(x, weight, bias, 2, 1)
    return y if negative_slope is None else F.leaky_relu(y, negative_slope, inplace=True)


def conv4x4_stride2_gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    negative_slope: float | None,
    to_x: bool,
    to_weight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x where `to_x`, and of weight and bias where `to_weight`.

    gradient: that of the convolution's output, before its leaky ReLU.
    negative_slope: None, or the slope of a leaky ReLU whose output is x. Then the first gradient is
    that of its input.
    """
    if not _fits(x, weight):
        wanted = (to_x, to_weight, to_weight)
        of_x, of_weight, of_bias = conv2d_gradients(gradient, x, weight, _GEOMETRY, wanted)
        if negative_slope is not None and of_x is not None:
            of_x = torch.ops.aten.leaky_relu_backward(of_x, x, negative_slope, True)
        return of_x, of_weight, of_bias
    return (
        cpu.input_gradient(gradient, x, weight, negative_slope) if to_x else None,
        cpu.weight_gradient(gradient, x, weight) if to_weight else None,
        gradient.sum(dim=(0, 2, 3)) if to_weight else None,
    )


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether Winograd's form takes them and is the faster one."""
    outputs, inputs = weight.shape[:2]
    return (
        outputs % _CHANNELS == 0
        and 2 * inputs >= _CHANNELS
        and outputs * inputs <= _PRODUCT
        and weight.dtype == torch.float32
        and has_winograd(x)
    )
