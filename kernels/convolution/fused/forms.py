"""A convolution and its epilogue on a GPU, forward and backward:

    y = ReLU(conv(x; weight) + shift + residual)
    dx = (dconv + residual) · [gate > 0]

Here the convolution is cuDNN's and the epilogue is one kernel behind it.
"""

import torch
from torch import Tensor

from fastass.kernels.convolution.conv2d import conv2d, conv2d_gradients
from fastass.kernels.convolution.epilogue import convolution_epilogue_
from fastass.kernels.convolution.split_backward import Geometry


def conv_epilogue(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    geometry: Geometry,
    residual: Tensor | None,
    relu: bool,
) -> Tensor:
    """y [B,M,h',w'] in the dtype of x and weight, for x [B,N,h,w] and shift [M] float32."""
    # In place: a sum beside y would leave a hole in memory for each block.
    y = conv2d(x, weight, None, *geometry)
    return convolution_epilogue_(y, shift, residual, relu=relu)


def conv_gradients(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    wanted: tuple[bool, bool],
    *,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """dx and the gradient of the weight, those that are `wanted`; residual and gate are like x."""
    of_x, of_weight, _ = conv2d_gradients(gradient, x, weight, geometry, (*wanted, False))
    if of_x is not None and not (residual is None and gate is None):
        of_x = of_x.contiguous(memory_format=torch.channels_last)
        of_x = convolution_epilogue_(of_x, None, residual, relu=False, gate=gate)
    return of_x, of_weight
