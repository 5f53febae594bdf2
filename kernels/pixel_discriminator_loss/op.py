"""Both losses of the pixel-wise semantic discriminator (CSA), Eq. 7–8, from one forward.

    logits = W2 · LeakyReLU(W1 · F + b1) + b2        at every feature pixel, 2C outputs
    domain loss      = mean of −log softmax(logits)[k + C·z]    → gradients to W1, b1, W2, b2 only
    adversarial loss = mean of −log softmax(logits)[k + C]      → gradients to F only

over the pixels that are not ignored; k is the pixel's class, z the domain.

Shapes: B images, N channels, h×w feature pixels, P = B·h·w, H×W label pixels, M hidden channels,
C classes. features F [B,N,h,w] (channels last is the fast layout) and weight1 [M,N] have one dtype,
in which the large products run; the rest is float32 inside. labels [B,H,W], uint8, are indexed to
h×w as F.interpolate(mode="nearest") does, or, `aligned`, on the grid of an upsampling with aligned
corners (`fastass.kernels.nearest`).

The gradients are computed in the forward, up to factors that backward applies: saved for it are
the hidden gradient of the adversarial loss [P,M] and the gradients of the weights. The native form
runs on the valid pixels alone, a block at a time. The Triton form leaves the three large products
to cuBLAS, over all pixels, and does everything between them in one kernel, which skips tiles of
ignored pixels; the gradient of weight2, a sum over all pixels, takes a second one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.kernels import dispatch
from fastass.kernels.checks import (
    check_classes,
    check_float,
    check_label_values,
    check_labels,
    check_map,
    unknown_labels,
)
from fastass.kernels.layout import empty_map
from fastass.kernels.library import operator
from fastass.kernels.nearest import nearest_labels
from fastass.kernels.pixel_discriminator_loss import cpu as cpu

# --- reference ------------------------------------------------------------------------------------


def reference(
    features: Tensor,
    labels: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    *,
    domain: int,
    adversarial: bool,
    negative_slope: float = 0.2,
    ignore_index: int = 255,
    aligned: bool = False,
) -> tuple[Tensor, Tensor]:
    """The definition: a forward with detached features, another with detached weights."""
    C = weight2.shape[0] // 2
    classes = nearest_labels(labels, (features.shape[2], features.shape[3]), aligned)
    unknown = unknown_labels(classes, C, ignore_index)
    valid = (classes != ignore_index) & ~unknown
    poison = torch.where(unknown.any(), torch.nan, 0.0)

    def loss(features: Tensor, weights: list[Tensor], shift: int) -> Tensor:
        w1, b1, w2, b2 = weights
        hidden = F.leaky_relu(F.conv2d(features, w1[:, :, None, None], b1), negative_slope)
        logits = F.conv2d(hidden, w2[:, :, None, None], b2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = torch.where(valid, classes.long() + shift, -100)
        total = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
        return total / valid.sum().clamp(min=1) + poison

    weights = [weight1, bias1, weight2, bias2]
    domain_loss = loss(features.detach(), weights, C * domain)
    if not adversarial:
        return domain_loss, torch.zeros_like(domain_loss)
    return domain_loss, loss(features, [weight.detach() for weight in weights], C)


# --- registration ---------------------------------------------------------------------------------


def _cuda(*arguments: Any) -> tuple[Tensor, ...]:
    from fastass.kernels.pixel_discriminator_loss import gpu

    return gpu.forward(*arguments)


def _backward_cuda(*arguments: Any) -> Tensor:
    from fastass.kernels.pixel_discriminator_loss import gpu

    return gpu.backward(*arguments)


def _forward_fake(
    features: Tensor,
    labels: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    domain: int,
    adversarial: bool,
    negative_slope: float,
    ignore_index: int,
    weight_gradient: bool,
    feature_gradient: bool,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, _, h, w = features.shape
    M = weight1.shape[0]

    def float32(*shape: int) -> Tensor:
        return features.new_empty(shape, dtype=torch.float32)

    hidden = features.new_empty((B * h * w if feature_gradient else 0, M))
    g1, h1, g2, h2 = (
        float32(*(weight.shape if weight_gradient else (0,)))
        for weight in (weight1, bias1, weight2, bias2)
    )
    return float32(), float32(), float32(), hidden, g1, h1, g2, h2


def _backward_fake(
    gradient: Tensor,
    scale: Tensor,
    hidden_gradient: Tensor,
    labels: Tensor,
    weight1: Tensor,
    size: list[int],
    num_classes: int,
    ignore_index: int,
    aligned: bool,
) -> Tensor:
    return empty_map(weight1, (labels.shape[0], weight1.shape[1], *size), weight1.dtype)


_forward = operator("pixel_discriminator_loss", cuda=_cuda, cpu=cpu.forward, fake=_forward_fake)
_backward = operator(
    "pixel_discriminator_loss_backward", cuda=_backward_cuda, cpu=cpu.backward, fake=_backward_fake
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, labels, weight1, bias1, weight2, bias2 = inputs[:6]
    ctx.save_for_backward(labels, weight1, *output[2:])
    ctx.size, ctx.classes = list(features.shape[2:]), weight2.shape[0] // 2
    ctx.ignore_index, ctx.weight_gradient, ctx.feature_gradient, ctx.aligned = inputs[9:13]
    ctx.dtypes = [weight.dtype for weight in (weight1, bias1, weight2, bias2)]
    ctx.mark_non_differentiable(*output[2:])


def _differentiate(
    ctx: Any, domain_gradient: Tensor, adversarial_gradient: Tensor, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    labels, weight1, scale, hidden_gradient, *gradients = ctx.saved_tensors
    features = None
    weights: list[Tensor | None] = [None] * 4
    if ctx.feature_gradient:
        features = _backward(
            adversarial_gradient,
            scale,
            hidden_gradient,
            labels,
            weight1,
            ctx.size,
            ctx.classes,
            ctx.ignore_index,
            ctx.aligned,
        )
    if ctx.weight_gradient:
        weights = [
            (gradient * domain_gradient).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
    return features, None, *weights, None, None, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)

# --- public ---------------------------------------------------------------------------------------


def pixel_discriminator_loss(
    features: Tensor,
    labels: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    *,
    domain: int,
    adversarial: bool,
    negative_slope: float = 0.2,
    ignore_index: int = 255,
    aligned: bool = False,
) -> tuple[Tensor, Tensor]:
    """Domain loss and adversarial loss of the pixel-wise semantic discriminator, Eq. 7–8.

    Args:
        features: F [B,N,h,w], float32, bfloat16 or float16, channels last for speed.
        labels: [B,H,W], uint8, any size; nearest-indexed to h×w inside.
        weight1, bias1: the first 1×1 layer, [M,N] and [M]. weight1 has the features' dtype.
        weight2, bias2: the second, [2C,M] and [2C]: C source classes, then C target classes.
        domain: z of the images, 0 source, 1 target: pixels of class k belong to output k + C·z.
        adversarial: also compute the adversarial loss, for output k + C.
        negative_slope: of the LeakyReLU, 0 to 1.
        ignore_index: the label of pixels that take no part.
        aligned: index the labels on the grid of an upsampling with aligned corners.

    Under autocast features and weight1 are cast to autocast's dtype; sums, softmax and losses are
    float32 always.

    Returns:
        domain loss (gradients to weights and biases only) and adversarial loss (gradient to the
        features only; a zero without gradient unless `adversarial`), both scalar float32 and means
        over the valid pixels of the batch; 0 with zero gradients where there are none.

    Raises:
        TypeError, ValueError: an argument's dtype, shape, device or range; on a CPU also a label
            that is neither a class nor `ignore_index`. On CUDA, where looking would stall the
            queue, such a pixel is left out as if ignored, and the losses are NaN.
    """
    implementation = dispatch.resolve(features.device)
    check_map("features", features, implementation)
    check_labels(labels, features, "features")
    _check_weights(features, weight1, bias1, weight2, bias2, implementation)
    check_classes(weight2.shape[0] // 2, ignore_index)
    if domain not in (0, 1):
        raise ValueError(f"domain: got {domain!r}, expected 0 (source) or 1 (target)")
    if not 0 <= negative_slope <= 1:
        raise ValueError(f"negative_slope: got {negative_slope!r}, expected 0 to 1")
    if torch.is_autocast_enabled(features.device.type):
        dtype = torch.get_autocast_dtype(features.device.type)
        features, weight1 = features.to(dtype), weight1.to(dtype)
    elif features.dtype != weight1.dtype:
        raise TypeError(f"weight1: got {weight1.dtype}, expected {features.dtype} as features")
    weights = (weight1, bias1, weight2, bias2)
    if implementation == "reference":
        read = nearest_labels(labels, (features.shape[2], features.shape[3]), aligned)
        check_label_values(read, weight2.shape[0] // 2, ignore_index)
        return reference(
            features,
            labels,
            *weights,
            domain=domain,
            adversarial=adversarial,
            negative_slope=negative_slope,
            ignore_index=ignore_index,
            aligned=aligned,
        )
    tracked = torch.is_grad_enabled()
    domain_loss, adversarial_loss, *_ = _forward(
        features,
        labels,
        *weights,
        domain,
        adversarial,
        float(negative_slope),
        ignore_index,
        tracked and any(weight.requires_grad for weight in weights),
        tracked and adversarial and features.requires_grad,
        aligned,
    )
    return domain_loss, adversarial_loss


def _check_weights(
    features: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    implementation: str,
) -> None:
    N = features.shape[1]
    M = weight1.shape[0] if weight1.dim() else 0
    outputs = weight2.shape[0] if weight2.dim() else 0
    if outputs == 0 or outputs % 2:
        raise ValueError(f"weight2: got shape {tuple(weight2.shape)}, expected [2C, M]")
    for name, tensor, shape in (
        ("weight1", weight1, (max(M, 1), N)),
        ("bias1", bias1, (M,)),
        ("weight2", weight2, (outputs, M)),
        ("bias2", bias2, (outputs,)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name}: got shape {tuple(tensor.shape)}, expected {shape} "
                f"for features {tuple(features.shape)}"
            )
        check_float(name, tensor, implementation)
        if tensor.device != features.device:
            raise ValueError(f"{name}: got device {tensor.device}, expected {features.device}")
