"""D_g's layers: a 4×4 convolution of stride 2 and padding 1 and the leaky ReLU after it.

    y[:,:,p,q] = LeakyReLU(bias + Σ_{c,k,l} w[:,c,k,l] x[:,c,2p+k−1,2q+l−1])

x is [B,C,H,W], y [B,O,⌊H/2⌋,⌊W/2⌋].

On a CPU in fp32 with channels-last maps narrow layers run in Winograd's form F(3×3, 2×2) on cells
of 2×2 pixels, in 2.25 times fewer multiplications less what tiles overhang the map's edge, with the
leaky ReLU in the same pass, forward and backward. Elsewhere they are torch's operators.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels.convolution.conv2d import gradients, takes_winograd
from fastass.kernels.convolution.winograd import conv4x4_stride2_cpu as cpu

NEGATIVE_SLOPE = 0.2
_CHANNELS = 16  # the outputs are a multiple of it, and two pixels have at least as many inputs
_PRODUCT = 64 * 128  # of both channels, at most: the transformed weight (2 MiB) stays in a cache


def halve(x: Tensor, layer: nn.Conv2d, *, leaky: bool) -> Tensor:
    """The layer, with its leaky ReLU or without. No gradients: see `halve_backward`."""
    assert layer.bias is not None
    if _fits(x, layer):
        return cpu.convolve(x, layer.weight, layer.bias, NEGATIVE_SLOPE if leaky else 1.0)
    y = F.conv2d(x, layer.weight, layer.bias, 2, 1)
    return F.leaky_relu(y, NEGATIVE_SLOPE, inplace=True) if leaky else y


def halve_backward(
    gradient: Tensor, x: Tensor, layer: nn.Conv2d, *, gated: bool, to_x: bool, to_weight: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, weight and bias, given that of the convolution's output.

    gated: x is the output of a leaky ReLU, and the gradient is that of its input.
    """
    wanted = (to_x, to_weight, to_weight)
    if not _fits(x, layer):
        of_x, of_weight, of_bias = gradients(gradient, x, layer.weight, layer, wanted)
        if gated and of_x is not None:
            of_x = torch.ops.aten.leaky_relu_backward(of_x, x, NEGATIVE_SLOPE, True)
        return of_x, of_weight, of_bias
    return (
        cpu.input_gradient(gradient, x, layer.weight, NEGATIVE_SLOPE, gated) if to_x else None,
        cpu.weight_gradient(gradient, x, layer.weight) if to_weight else None,
        gradient.sum(dim=(0, 2, 3)) if to_weight else None,
    )


def _fits(x: Tensor, layer: nn.Conv2d) -> bool:
    outputs, inputs = layer.weight.shape[:2]
    return (
        outputs % _CHANNELS == 0
        and 2 * inputs >= _CHANNELS
        and outputs * inputs <= _PRODUCT
        and layer.weight.dtype == torch.float32
        and takes_winograd(x)
    )
