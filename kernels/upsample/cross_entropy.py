"""Cross-entropy of upsampled scores, Eq. 1: L_seg = - mean over valid p of log P[p, Y_p].

    P = softmax(bilinear(S) at H×W),   valid pixels: Y ≠ ignore_index

Shapes: scores S [B, C, h, w] (any strides; float32, bfloat16 or float16), labels Y uint8 [B, H, W],
loss float32 [], P [B, C, H, W] in the dtype of S. Sums are float32 within an image row's cells and
float64 above. No valid pixel: the loss and its gradient are 0.

With pixel weights w (`fastass.kernels.upsample.pixel_weights`) it is the mean over all pixels,

    - 1/(B H W) · Σ over valid p of w_p log P[p, Y_p]

The gradient of the summed loss, ∂/∂S = bilinearᵀ(P - onehot(Y)), is gathered in the forward pass
and saved at the size of S; backward scales it. The upsampled scores never exist; P exists only
where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional

from fastass.kernels import dispatch
from fastass.kernels.checks import check_label_values, check_labels, unknown_labels
from fastass.kernels.library import operator
from fastass.kernels.upsample import softmax_cpu as cpu
from fastass.kernels.upsample.grid import (
    check_grid,
    check_ignore,
    check_scores,
    empty_gradient,
    empty_probabilities,
    upsampled,
)
from fastass.kernels.upsample.pixel_weights import PixelWeights
from fastass.kernels.upsample.softmax import softmax_backward

# --- reference ------------------------------------------------------------------------------------


def reference(
    scores: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    ignore_index: int = 255,
    return_probabilities: bool = False,
    weights: PixelWeights | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The definition."""
    wide = upsampled(scores, (labels.shape[1], labels.shape[2]), align_corners)
    unknown = unknown_labels(labels, scores.shape[1], ignore_index)
    target = torch.where(unknown, ignore_index, labels).long()
    if weights is None:
        total = functional.cross_entropy(wide, target, ignore_index=ignore_index, reduction="sum")
        loss = total / (target != ignore_index).sum().clamp(min=1)
    else:
        each = functional.cross_entropy(wide, target, ignore_index=ignore_index, reduction="none")
        loss = (weights.of_pixels().to(each.dtype) * each).mean()
    loss = loss + torch.where(unknown.any(), torch.nan, 0.0)
    return (loss, wide.softmax(1).to(scores.dtype)) if return_probabilities else loss


# --- registration ---------------------------------------------------------------------------------

# (loss, pixels that it is the mean over, gradient of the summed loss or empty, P or empty)
Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def _forward(
    run: Callable[..., tuple[Tensor, Tensor, Tensor | None, Tensor | None]],
    scores: Tensor,
    labels: Tensor,
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
    full: Tensor | None = None,
    scale: Tensor | None = None,
) -> Outputs:
    size = (labels.shape[1], labels.shape[2])
    needs = (need_gradient, need_probabilities)
    weights = () if full is None else (full, scale)
    total, valid, saved, p = run(
        scores, labels, size, align_corners, ignore_index, *needs, *weights
    )
    if full is not None:
        valid = torch.full_like(valid, labels.numel())
    loss = (total / valid.clamp(min=1)).float()
    saved = saved if saved is not None else scores.new_empty(0, dtype=torch.float32)
    return loss, valid, saved, p if p is not None else scores.new_empty(0)


def _cuda(*arguments: Any) -> Outputs:
    from fastass.kernels.upsample import softmax_gpu as gpu

    return _forward(gpu.forward, *arguments)


def _cpu(
    scores: Tensor,
    labels: Tensor,
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
    full: Tensor | None = None,
    scale: Tensor | None = None,
) -> Outputs:
    needs = (need_gradient, need_probabilities)
    return _forward(cpu.forward, scores, labels, align_corners, ignore_index, *needs, full, scale)


def _fake(
    scores: Tensor,
    labels: Tensor,
    align_corners: bool,
    ignore_index: int,
    need_gradient: bool,
    need_probabilities: bool,
    full: Tensor | None = None,
    scale: Tensor | None = None,
) -> Outputs:
    size = (labels.shape[1], labels.shape[2])
    return (
        scores.new_empty((), dtype=torch.float32),
        scores.new_empty((), dtype=torch.int64),
        empty_gradient(scores) if need_gradient else scores.new_empty(0, dtype=torch.float32),
        empty_probabilities(scores, size) if need_probabilities else scores.new_empty(0),
    )


_operator = operator("upsample_cross_entropy", cuda=_cuda, cpu=_cpu, fake=_fake)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    scores, _, align_corners, _, need_gradient, need_probabilities = inputs[:6]
    _, valid, gradient, _ = output
    if not need_gradient:
        raise RuntimeError(
            "upsample_cross_entropy: called without need_gradient, then differentiated"
        )
    ctx.save_for_backward(valid, gradient, scores if need_probabilities else None)
    ctx.align_corners, ctx.dtype = align_corners, scores.dtype
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, loss: Tensor | None, _valid: None, _gradient: None, p: Tensor | None
) -> tuple[Tensor | None, ...]:
    valid, gradient, scores = ctx.saved_tensors
    total = None
    if loss is not None:
        total = gradient * (loss / valid.clamp(min=1))
    if p is not None and scores is not None:
        through_p = softmax_backward(scores, p.to(scores.dtype), ctx.align_corners)
        total = through_p if total is None else total + through_p
    return (total if total is None else total.to(ctx.dtype), *(None,) * 7)


_operator.register_autograd(_backward, setup_context=_save)

# --- public ---------------------------------------------------------------------------------------


@overload
def upsample_cross_entropy(
    scores: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    ignore_index: int = 255,
    return_probabilities: Literal[False] = False,
    weights: PixelWeights | None = None,
) -> Tensor: ...


@overload
def upsample_cross_entropy(
    scores: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    ignore_index: int = 255,
    return_probabilities: Literal[True],
    weights: PixelWeights | None = None,
) -> tuple[Tensor, Tensor]: ...


def upsample_cross_entropy(
    scores: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    ignore_index: int = 255,
    return_probabilities: bool = False,
    weights: PixelWeights | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mean cross-entropy (float32 scalar) of upsampled scores over valid pixels, Eq. 1; and P.

    scores: [B, C, h, w], float32, bfloat16 or float16, any strides, C ≤ 64; differentiable once.
    labels: uint8 [B, H, W], class ids below C or `ignore_index`.
    align_corners: as in `torch.nn.functional.interpolate`.
    return_probabilities: return (loss, P) with P [B, C, H, W] in the dtype of scores, channels
        last; a gradient that comes back through P is added to the loss's.
    weights: of the pixels; not differentiated. The loss is then the weighted sum over the valid
        pixels, divided by the number of all pixels.
    Autocast leaves the scores' dtype alone; inside, everything is float32.

    Raises TypeError or ValueError for arguments that do not fit. A label that is no class and not
    `ignore_index` is a ValueError on the CPU; on CUDA, where looking would stall the queue, its
    pixel is left out as if ignored, and the loss is NaN.
    """
    implementation = dispatch.resolve(scores.device)
    check_scores(scores, implementation)
    check_labels(labels, scores, "scores")
    check_grid((labels.shape[1], labels.shape[2]), scores, align_corners, "labels")
    check_ignore(ignore_index)
    if weights is not None:
        weights.check(labels)
    if implementation == "reference":
        check_label_values(labels, scores.shape[1], ignore_index)
        return reference(
            scores,
            labels,
            align_corners=align_corners,
            ignore_index=ignore_index,
            return_probabilities=return_probabilities,
            weights=weights,
        )
    full = scale = None
    if weights is not None:
        full, scale = weights.full.contiguous(), weights.scale.detach().float().contiguous()
    need_gradient = scores.requires_grad and torch.is_grad_enabled()
    loss, _, _, p = _operator(
        scores,
        labels.contiguous(),
        align_corners,
        ignore_index,
        need_gradient,
        return_probabilities,
        full,
        scale,
    )
    return (loss, p) if return_probabilities else loss
