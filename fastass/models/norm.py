"""Batch normalisation in the three kinds that published numbers depend on."""

import torch
from torch import Tensor, nn

from fastass import kernels
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
        self._made_of: list[tuple[Tensor, int]] = []  # what `_kept` was computed from
        self._kept: tuple[Tensor, Tensor] | None = None

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """The equal affine map y = scale·x + shift; both [channels].

        Computed once, and again when a buffer was replaced or written to.
        """
        buffers = (self.weight, self.bias, self.running_mean, self.running_var)
        if torch.compiler.is_compiling() or any(b.is_inference() for b in buffers):
            return self._scale_shift()
        made_of = [(b, b._version) for b in buffers]
        known = zip(made_of, self._made_of, strict=False)
        same = all(b is before and v == then for (b, v), (before, then) in known)
        if self._kept is None or not same:
            with torch.inference_mode(False), torch.no_grad():  # also training will read them
                self._kept, self._made_of = self._scale_shift(), made_of
        return self._kept

    def _scale_shift(self) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_shift()
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)


def make_norm(kind: NormKind, channels: int, *, train_affine: bool) -> nn.Module:
    """A norm layer. `train_affine=False` fixes its scale and shift."""
    if kind == "frozen":
        return FrozenBatchNorm2d(channels)
    norm = nn.SyncBatchNorm(channels) if kind == "sync" else nn.BatchNorm2d(channels)
    norm.requires_grad_(train_affine)
    return norm


def layer_of(conv: nn.Module, bn: nn.Module) -> kernels.ConvNorm:
    """A convolution without a bias and its norm, as the kernels take them.

    A frozen norm is folded into the convolution's weight and bias; the weight's gradient is exact.
    """
    assert isinstance(conv, nn.Conv2d)
    norm = bn.scale_shift() if isinstance(bn, FrozenBatchNorm2d) else bn
    return kernels.ConvNorm(conv.weight, conv.stride, conv.padding, conv.dilation, norm)


def conv_bn(x: Tensor, conv: nn.Conv2d, bn: nn.Module, *, relu: bool = False) -> Tensor:
    """`bn(conv(x))`, then ReLU where it is asked for. conv: without a bias."""
    return kernels.conv_norm(x, layer_of(conv, bn), relu=relu)
