"""Batch normalisation in the three kinds that published numbers depend on."""

import torch
from torch import Tensor, nn

from fastass.kernels.convolution.batch_norm import batch_norm
from fastass.kernels.convolution.conv2d import conv2d
from fastass.kernels.convolution.conv_frozen_bn import folded_conv2d
from fastass.kernels.convolution.recompute import Again
from fastass.models.config import NormKind


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine are constants, also in `train()` mode.

    All four vectors are buffers under `nn.BatchNorm2d`'s names, so its state dicts load. No mode,
    optimizer or forward can change them.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """The equal affine map y = scale·x + shift; both [channels]."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_shift()
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)


def make_norm(kind: NormKind, channels: int, *, train_affine: bool) -> nn.Module:
    """A norm layer; `train_affine=False` fixes its scale and shift, as AdaptSegNet does."""
    if kind == "frozen":
        return FrozenBatchNorm2d(channels)
    norm = nn.SyncBatchNorm(channels) if kind == "sync" else nn.BatchNorm2d(channels)
    norm.requires_grad_(train_affine)
    return norm


def conv_norm(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.Module,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
    x_again: Again | None = None,
    sum_again: Again | None = None,
) -> Tensor:
    """`norm(conv(x))` for a convolution without bias; then `+ residual` and ReLU where wanted.

    A frozen norm goes into the convolution's weight and bias: its pass over the activations,
    forward and backward, disappears, and the weight's gradient stays exact. There the backward
    may compute x again, or the sum, rather than keep it.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        y = conv2d(x, conv.weight, conv.bias, conv)
        return batch_norm(y, norm, residual=residual, relu=relu)
    scale, shift = norm.scale_shift()
    return folded_conv2d(
        x,
        conv.weight,
        scale,
        shift,
        conv,
        residual=residual,
        relu=relu,
        x_again=x_again,
        y_again=sum_again,
    )
