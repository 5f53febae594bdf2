"""Softmax of bilinearly upsampled scores: P at full resolution, but never the scores.

    P[b, k, y, x] = exp(U[b, k, y, x]) / Σ_j exp(U[b, j, y, x]),   U = bilinear(S) at H×W

Shapes: scores S [B, C, h, w] (any strides; float32, bfloat16 or float16), P [B, C, H, W] in the
dtype of S, channels last. Sums are float32. Saved for backward: S alone; P is computed again.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.library import operator
from fastass.kernels.upsample import softmax_cpu as cpu
from fastass.kernels.upsample.grid import (
    check_grid,
    check_scores,
    empty_gradient,
    empty_probabilities,
    upsampled,
)

# --- reference ------------------------------------------------------------------------------------


def reference(scores: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """The definition."""
    return upsampled(scores, size, align_corners).softmax(1).to(scores.dtype)


# --- registration ---------------------------------------------------------------------------------


def _cuda(scores: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    from fastass.kernels.upsample import softmax_gpu as gpu

    out = gpu.forward(scores, None, (height, width), align_corners, 255, False, True)[3]
    assert out is not None
    return out


def _cpu(scores: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    out = cpu.forward(scores, None, (height, width), align_corners, 255, False, True)[3]
    assert out is not None
    return out


def _fake(scores: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    return empty_probabilities(scores, (height, width))


def _backward_cuda(*arguments: Any) -> Tensor:
    from fastass.kernels.upsample import softmax_gpu as gpu

    return gpu.backward(*arguments)


def _backward_fake(scores: Tensor, incoming: Tensor, align_corners: bool) -> Tensor:
    return empty_gradient(scores)


_forward = operator("upsample_softmax", cuda=_cuda, cpu=_cpu, fake=_fake)
# Gradient of the scores, float32 and channels last, given that of P in the scores' dtype.
softmax_backward = operator(
    "upsample_softmax_backward", cuda=_backward_cuda, cpu=cpu.backward, fake=_backward_fake
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.align_corners = inputs[3]


def _gradient(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
    (scores,) = ctx.saved_tensors
    gradient = softmax_backward(scores, incoming.to(scores.dtype), ctx.align_corners)
    return gradient.to(scores.dtype), None, None, None


_forward.register_autograd(_gradient, setup_context=_save)

# --- public ---------------------------------------------------------------------------------------


def upsample_softmax(scores: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """P [B, C, H, W]: softmax over the classes of bilinearly upsampled scores; differentiable once.

    scores: [B, C, h, w], float32, bfloat16 or float16, any strides, C ≤ 64.
    size: (H, W). align_corners: as in `torch.nn.functional.interpolate`.
    P has the dtype of scores (autocast leaves both alone) and is channels last.

    Raises TypeError or ValueError for arguments that do not fit.
    """
    implementation = dispatch.resolve(scores.device)
    check_scores(scores, implementation)
    check_grid(size, scores, align_corners, "size")
    if implementation == "reference":
        return reference(scores, size, align_corners=align_corners)
    probabilities: Tensor = _forward(scores, size[0], size[1], align_corners)
    return probabilities
