"""Triton kernels of everything behind the pixel discriminator's first product H = F W1ᵀ [P, M].

`tail_kernel` goes from H to both losses and the gradients of the hidden layer; `weight2_kernel` is
the gradient of the second weight, a sum over all pixels. Symbols: `fastass.kernels.
pixel_discriminator_loss`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastass.kernels.nearest_gpu import nearest_class


@triton.jit
def _add_product(total, a, b, like, PRECISION: tl.constexpr, INTERPRET: tl.constexpr):
    """total + a · b, multiplied in the type that `like` points to, summed in float32."""
    if INTERPRET:
        total += tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        kind = like.dtype.element_ty
        total = tl.dot(a.to(kind), b.to(kind), total, input_precision=PRECISION)
    return total


@triton.jit
def _store(to, value, mask):
    tl.store(to, value.to(to.dtype.element_ty), mask=mask)


@triton.jit
def tail_kernel(
    hidden, labels, bias1, weight2, bias2, domain_gradient, adversarial_gradient, logit_gradient,
    pixel_losses, bias1_partials, bias2_partials, slope, pixels, image_pixels, hidden_channels,
    width, label_height, label_width, scale_y, scale_x, num_classes, ignore_index,
    DOMAIN: tl.constexpr, STORE_DOMAIN: tl.constexpr, STORE_ADVERSARIAL: tl.constexpr,
    STORE_WEIGHTS: tl.constexpr, ALIGNED: tl.constexpr, PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, PRECISION: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """From F W1ᵀ of PIXELS pixels to both losses and the gradients of the hidden layer.

    pixel_losses [3, P]: domain loss, adversarial loss, 1 where valid. The hidden rows are read
    twice, the second time from the L2 cache. (A sum of the losses in here is what Triton 3.7 cannot
    compile for sm_100.)
    """
    tile = tl.program_id(0)
    r = tl.arange(0, PIXELS)
    o = tl.arange(0, OUTPUTS)
    p = tile * PIXELS + r
    outputs = 2 * num_classes
    label = nearest_class(
        labels, p // image_pixels, p % image_pixels, p < pixels, width, label_height, label_width,
        scale_y, scale_x, num_classes, ignore_index, ALIGNED,
    )  # fmt: skip
    valid = label >= 0
    # A label that is no class makes the losses NaN, and is left out of everything else.
    poison = tl.where(label == -2, float("nan"), 0.0)
    tl.store(pixel_losses + 2 * pixels + p, valid.to(tl.float32), mask=p < pixels)
    base = tile.to(tl.int64) * PIXELS * hidden_channels
    hidden += base
    domain_gradient += base
    adversarial_gradient += base
    rows = (p < pixels)[:, None]
    if tl.sum(valid.to(tl.int32), 0) > 0:
        logits = tl.zeros((PIXELS, OUTPUTS), tl.float32)
        for start in range(0, hidden_channels, HIDDEN):
            m = start + tl.arange(0, HIDDEN)
            known = valid[:, None] & (m < hidden_channels)[None, :]
            place = r[:, None] * hidden_channels + m[None, :]
            x = tl.load(hidden + place, mask=known, other=0.0).to(tl.float32)
            x += tl.load(bias1 + m, mask=m < hidden_channels, other=0.0).to(tl.float32)[None, :]
            x = tl.where(x > 0, x, x * slope)
            w = tl.load(
                weight2 + o[None, :] * hidden_channels + m[:, None],
                mask=(o < outputs)[None, :] & (m < hidden_channels)[:, None],
                other=0.0,
            )
            logits = _add_product(logits, x, w, hidden, PRECISION, INTERPRET)
        logits += tl.load(bias2 + o, mask=o < outputs, other=0.0).to(tl.float32)[None, :]
        logits = tl.where((o < outputs)[None, :], logits, float("-inf"))
        most = tl.max(logits, 1)
        exponential = tl.exp(logits - most[:, None])
        total = tl.sum(exponential, 1)
        logarithm = tl.log(total) + most
        is_domain = o[None, :] == (label + num_classes * DOMAIN)[:, None]
        is_target = o[None, :] == (label + num_classes)[:, None]
        loss = logarithm - tl.sum(tl.where(is_domain, logits, 0.0), 1)
        tl.store(pixel_losses + p, tl.where(valid, loss, poison), mask=p < pixels)
        loss = logarithm - tl.sum(tl.where(is_target, logits, 0.0), 1)
        tl.store(pixel_losses + pixels + p, tl.where(valid, loss, poison), mask=p < pixels)
        softmax = exponential / total[:, None]
        gradient = tl.where(valid[:, None], softmax - is_domain.to(tl.float32), 0.0)
        if STORE_WEIGHTS:
            logit_places = tile.to(tl.int64) * PIXELS * OUTPUTS + r[:, None] * OUTPUTS + o[None, :]
            _store(logit_gradient + logit_places, gradient, rows)
            tl.store(bias2_partials + tile * OUTPUTS + o, tl.sum(gradient, 0))
        target = tl.where(valid[:, None], softmax - is_target.to(tl.float32), 0.0)
        if STORE_DOMAIN or STORE_ADVERSARIAL:
            for start in range(0, hidden_channels, HIDDEN):
                m = start + tl.arange(0, HIDDEN)
                inside = (m < hidden_channels)[None, :]
                place = r[:, None] * hidden_channels + m[None, :]
                x = tl.load(hidden + place, mask=valid[:, None] & inside, other=0.0).to(tl.float32)
                x += tl.load(bias1 + m, mask=m < hidden_channels, other=0.0).to(tl.float32)[None, :]
                factor = tl.where(x > 0, 1.0, slope)
                w = tl.load(
                    weight2 + o[:, None] * hidden_channels + m[None, :],
                    mask=(o < outputs)[:, None] & inside,
                    other=0.0,
                )
                zero = tl.zeros((PIXELS, HIDDEN), tl.float32)
                if STORE_DOMAIN:
                    d = _add_product(zero, gradient, w, hidden, PRECISION, INTERPRET) * factor
                    _store(domain_gradient + place, d, rows & inside)
                    if STORE_WEIGHTS:
                        tl.store(
                            bias1_partials + tile * hidden_channels + m,
                            tl.sum(d, 0),
                            mask=m < hidden_channels,
                        )
                if STORE_ADVERSARIAL:
                    d = _add_product(zero, target, w, hidden, PRECISION, INTERPRET) * factor
                    _store(adversarial_gradient + place, d, rows & inside)
    else:
        tl.store(pixel_losses + p, poison, mask=p < pixels)
        tl.store(pixel_losses + pixels + p, poison, mask=p < pixels)
        zero = tl.zeros((PIXELS, HIDDEN), tl.float32)
        if STORE_WEIGHTS:
            logit_places = tile.to(tl.int64) * PIXELS * OUTPUTS + r[:, None] * OUTPUTS + o[None, :]
            _store(logit_gradient + logit_places, tl.zeros((PIXELS, OUTPUTS), tl.float32), rows)
            tl.store(bias2_partials + tile * OUTPUTS + o, tl.zeros((OUTPUTS,), tl.float32))
        for start in range(0, hidden_channels, HIDDEN):
            m = start + tl.arange(0, HIDDEN)
            inside = rows & (m < hidden_channels)[None, :]
            place = r[:, None] * hidden_channels + m[None, :]
            if STORE_DOMAIN:
                _store(domain_gradient + place, zero, inside)
            if STORE_ADVERSARIAL:
                _store(adversarial_gradient + place, zero, inside)
            if STORE_WEIGHTS:
                nothing = tl.zeros((HIDDEN,), tl.float32)
                tl.store(
                    bias1_partials + tile * hidden_channels + m, nothing, mask=m < hidden_channels
                )


@triton.jit
def weight2_kernel(
    hidden, bias1, logit_gradient, partials, slope, pixels, hidden_channels, pixels_per_part,
    PIXELS: tl.constexpr, OUTPUTS: tl.constexpr, HIDDEN: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """partials [parts, OUTPUTS, M]: logit gradientᵀ · activations over one range of pixels."""
    m = tl.program_id(0) * HIDDEN + tl.arange(0, HIDDEN)
    part = tl.program_id(1)
    o = tl.arange(0, OUTPUTS)
    first = part * pixels_per_part
    last = tl.minimum(first + pixels_per_part, pixels)
    bias = tl.load(bias1 + m, mask=m < hidden_channels, other=0.0).to(tl.float32)
    total = tl.zeros((OUTPUTS, HIDDEN), tl.float32)
    for start in range(first, last, PIXELS):
        p = (start + tl.arange(0, PIXELS)).to(tl.int64)
        g = tl.load(
            logit_gradient + p[None, :] * OUTPUTS + o[:, None], mask=(p < last)[None, :], other=0.0
        )
        x = tl.load(
            hidden + p[:, None] * hidden_channels + m[None, :],
            mask=(p < last)[:, None] & (m < hidden_channels)[None, :],
            other=0.0,
        ).to(tl.float32)
        x += bias[None, :]
        x = tl.where(x > 0, x, x * slope)
        total = _add_product(total, g, x, hidden, PRECISION, INTERPRET)
    tl.store(
        partials + (part * OUTPUTS + o).to(tl.int64)[:, None] * hidden_channels + m[None, :],
        total,
        mask=(m < hidden_channels)[None, :],
    )
