"""A residual block of convolutions and norms (He et al. 2016):

    y = ReLU(f_L(ReLU(… f_1(x))) + s(x)),   f_i(h) = norm_i(conv(h; w_i))

where s is the identity or one more such layer. Shapes: x [B,N,h,w], w_i [M_i,M_{i−1},kh,kw] with
M_0 = N → y [B,M_L,h',w'].

On a GPU, eagerly, the block is one node of the graph, with frozen norms (`frozen.py`) and with
Triton's batch norms (`batch.py`). Elsewhere it is `conv_frozen_bn`, or `conv2d` and `batch_norm`,
layer by layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastass.kernels import dispatch
from fastass.kernels.convolution.norm import op
from fastass.kernels.convolution.recompute import mark_of, recomputes_outputs
from fastass.kernels.convolution.residual import batch, frozen
from fastass.kernels.convolution.residual.layer import ConvNorm, conv_norm


def residual_block(x: Tensor, layers: Sequence[ConvNorm], shortcut: ConvNorm | None) -> Tensor:
    """y; differentiable once, by x and the weights (and by what trains in a norm).

    layers: f_1 … f_L, at least one. shortcut: s, or None for the identity.
    """
    if _is_one_node(x):
        every = layers if shortcut is None else [*layers, shortcut]
        is_frozen = all(isinstance(layer.norm, tuple) for layer in every)
        if is_frozen and torch.is_grad_enabled():
            return frozen.residual_block(x, layers, shortcut)
        if all(isinstance(f.norm, nn.Module) and op.fits(x, f.norm) for f in every):
            return batch.residual_block(x, layers, shortcut)
    out = x
    for layer in layers[:-1]:
        out = conv_norm(out, layer, relu=True)
    residual = x if shortcut is None else conv_norm(x, shortcut)
    return conv_norm(out, layers[-1], residual=residual, relu=True)


def _is_one_node(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not x.is_meta
        and not recomputes_outputs()
        and mark_of(x) is None
        and dispatch.resolve(x.device) == "triton"
    )
