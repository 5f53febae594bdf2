"""DeepLab-v2's classifier: the sum of 3×3 convolutions of several dilations d, which all read x.

    y = Σ_d conv(x; weight_d, bias_d, padding = dilation = d)

Shapes: x [B,N,h,w], each weight [C,N,3,3], each bias [C] → y [B,C,h,w].

On a CPU in fp32 with channels-last maps of more channels than there are taps, it is one 1×1
convolution for the taps of all weights, which reads x once, and each tap's scores are then moved to
where they belong. A dilated convolution with few outputs reaches a sixth of the rate of such a
product. With fewer channels the map of all taps would be larger than x. On a GPU it is the same
product, and a Triton kernel moves the scores (`taps/`).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.convolution.conv2d import conv2d
from fastass.kernels.convolution.cpu_forms import has_cpu_forms
from fastass.kernels.convolution.taps.product import BRANCHES, one_product


def multi_dilation_conv(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    """y; differentiable. The three sequences have one element per dilation.

    Raises ValueError where they differ in length or are empty.
    """
    if not weights or not len(weights) == len(biases) == len(dilations):
        raise ValueError(
            f"multi_dilation_conv: got {len(weights)} weights, {len(biases)} biases and "
            f"{len(dilations)} dilations, expected as many of each, and at least one"
        )
    taps = sum(9 * weight.shape[0] for weight in weights)
    if has_cpu_forms(x) and x.shape[1] > taps:
        return _one_product(x, weights, biases, dilations)
    if _is_one_product_on_a_gpu(x, weights, taps):
        return one_product(x, weights, biases, dilations)
    y: Tensor | None = None
    for weight, bias, d in zip(weights, biases, dilations, strict=True):
        term = conv2d(x, weight, bias, 1, d, d)
        y = term if y is None else y + term
    assert y is not None
    return y


def _is_one_product_on_a_gpu(x: Tensor, weights: Sequence[Tensor], taps: int) -> bool:
    return (
        x.shape[1] > taps
        and len(weights) <= BRANCHES
        and len({weight.shape for weight in weights}) == 1
        and x.device.type == "cuda"
        and x.dtype != torch.float64
        and not torch.compiler.is_compiling()
        and dispatch.resolve(x.device) == "triton"
    )


def _one_product(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    size = x.shape[2:]
    # F.fold puts tap (i,j) at +(i,j); a convolution reads it from there, hence the flip.
    taps = [weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2) for weight in weights]
    product = conv2d(x, torch.cat(taps)[:, :, None, None])
    y = torch.stack(list(biases)).sum(dim=0)[:, None, None]
    columns = product.flatten(2).chunk(len(weights), 1)
    for column, d in zip(columns, dilations, strict=True):
        y = y + F.fold(column, size, 3, dilation=d, padding=d)
    return y.contiguous(memory_format=torch.channels_last)
