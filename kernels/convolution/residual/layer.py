"""A convolution and the norm behind it: one layer of a residual network."""

from typing import NamedTuple

from torch import Tensor, nn

from fastass.kernels.convolution.batch_norm import batch_norm
from fastass.kernels.convolution.conv2d import Size, conv2d
from fastass.kernels.convolution.conv_frozen_bn import conv_frozen_bn


class ConvNorm(NamedTuple):
    """A convolution without a bias and the norm behind it.

    norm: (scale, shift) of a frozen norm, both [M], which are constants; or a module.
    """

    weight: Tensor
    stride: Size
    padding: Size
    dilation: Size
    norm: tuple[Tensor, Tensor] | nn.Module


def conv_norm(
    x: Tensor, layer: ConvNorm, *, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    """`norm(conv(x))`, then `+ residual` and ReLU where they are asked for; differentiable once."""
    weight, *geometry, norm = layer
    if isinstance(norm, tuple):
        return conv_frozen_bn(x, weight, *norm, *geometry, residual=residual, relu=relu)
    return batch_norm(conv2d(x, weight, None, *geometry), norm, residual=residual, relu=relu)
