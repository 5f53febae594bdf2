"""The native batch norm of a training step; its contract is in `batch_norm.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastass.kernels import native_library


def forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    relu: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the mean and inverse standard deviation of each channel. Updates the running
    statistics.

    x and residual: [B,N,h,w] float32 in channels-last memory; the vectors [N] float32.
    """
    y, mean, inverse = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
    native_library.call(
        "batch_norm_forward",
        *(x, residual, weight, bias, y, mean, inverse, running_mean, running_var),
        *(x.numel() // x.shape[1], x.shape[1], relu, momentum, eps, torch.get_num_threads()),
    )
    return y, mean, inverse


def backward(
    gradient: Tensor,
    x: Tensor,
    y: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    *,
    residual: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The gradients of x, the residual (None unless asked for), weight and bias.

    y: the output if a ReLU was part of it, else None. Layouts as in `forward`.
    """
    of_x = torch.empty_like(x)
    of_residual = torch.empty_like(x) if residual else None
    of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
    native_library.call(
        "batch_norm_backward",
        *(gradient, x, y, mean, inverse, weight, of_x, of_residual, of_weight, of_bias),
        *(x.numel() // x.shape[1], x.shape[1], torch.get_num_threads()),
    )
    return of_x, of_residual, of_weight, of_bias
