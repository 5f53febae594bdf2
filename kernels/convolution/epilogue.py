"""What follows a convolution whose norm is folded into it, in one pass over the map:

    y = ReLU(x + bias + residual),  written over x
    y = (x + residual) · [gate > 0],  the same for gradients: gate is the output of a ReLU

Shapes: x, residual and gate [B,N,h,w] in float32, bfloat16 or float16, bias [N]. Bias, residual,
ReLU and gate are optional. On CUDA the sum is taken in float32 and rounded once. NaN stays NaN.
Not differentiable by itself: the backward of its caller needs only y.

On CUDA torch runs each part as a pass of its own, including cuDNN's bias. With a residual that
reads or writes a map 7 times where one pass does so 3 times; without one, 4 times and 2 times. On a
CPU convolutions add the bias themselves, and the rest is torch's operators: a native pass would
save less than 1 % of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels import dispatch

# --- reference ------------------------------------------------------------------------------------


def reference(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    gate: Tensor | None = None,
) -> Tensor:
    """The definition, in place; each part in the precision of x."""
    if bias is not None:
        x.add_(bias[:, None, None])
    if residual is not None:
        x.add_(residual)
    if gate is not None:
        x.masked_fill_(gate <= 0, 0)
    return x.relu_() if relu else x


# --- public ---------------------------------------------------------------------------------------


def convolution_epilogue_(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    relu: bool,
    gate: Tensor | None = None,
) -> Tensor:
    """x, which now holds y.

    Args:
        x: [B,N,h,w], dense in channels-last or channels-first memory.
        bias: [N], or None.
        residual: like x, or None; in another layout it is copied first.
        relu: False leaves the sum as it is.
        gate: as residual. Where it is not above zero, y is zero.

    Raises:
        TypeError, ValueError: an argument's dtype, shape, device or layout.
        RuntimeError: the chosen implementation does not run on x.
    """
    if x.dim() != 4:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected [B, N, h, w]")
    if bias is not None and (bias.shape != x.shape[1:2] or bias.device != x.device):
        raise ValueError(
            f"bias: got {tuple(bias.shape)} on {bias.device}, expected ({x.shape[1]},) on "
            f"{x.device} as x"
        )
    for name, map_ in (("residual", residual), ("gate", gate)):
        if map_ is None:
            continue
        if map_.shape != x.shape or map_.device != x.device:
            raise ValueError(
                f"{name}: got {tuple(map_.shape)} on {map_.device}, expected "
                f"{tuple(x.shape)} on {x.device} as x"
            )
        if map_.dtype != x.dtype:
            raise TypeError(f"{name}: got {map_.dtype}, expected {x.dtype} as x")
    if dispatch.resolve(x.device) == "triton":
        return _cuda(x, bias, residual, relu, gate)
    return reference(x, bias, residual, relu, gate)


def _cuda(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    gate: Tensor | None = None,
) -> Tensor:
    from fastass.kernels.convolution import epilogue_gpu as gpu

    last = x.is_contiguous(memory_format=torch.channels_last)
    if not last and not x.is_contiguous():
        raise ValueError(f"x: got strides {x.stride()}, expected a dense map")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise TypeError(f"x: got {x.dtype}, expected float32, bfloat16 or float16")
    layout = torch.channels_last if last else torch.contiguous_format
    residual, gate = (
        None if map_ is None else map_.contiguous(memory_format=layout) for map_ in (residual, gate)
    )
    gpu.epilogue_(x, None if bias is None else bias.contiguous(), residual, relu, last, gate)
    return x
