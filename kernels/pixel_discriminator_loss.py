"""Both losses of the pixel-wise semantic discriminator (CSA), Eq. 7–8, from one forward.

    logits = W2 · LeakyReLU(W1 · F + b1) + b2        at every feature pixel, 2C outputs
    domain loss      = mean of −log softmax(logits)[k + C·z]    → gradients to W1, b1, W2, b2 only
    adversarial loss = mean of −log softmax(logits)[k + C]      → gradients to F only

over the pixels that are not ignored; k is the pixel's class, z the domain.

Shapes: B images, N channels, h×w feature pixels, P = B·h·w, H×W label pixels, M hidden channels,
C classes. features F [B,N,h,w] (channels last is the fast layout) and weight1 [M,N] have one dtype,
in which the large products run; the rest is float32 inside. labels [B,H,W], uint8, are indexed to
h×w as F.interpolate(mode="nearest") does.

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

from fastass.kernels import dispatch, native
from fastass.kernels.aot import Launch
from fastass.kernels.jit import cdiv, interpreting, jit, power_of_2, tl
from fastass.kernels.nearest import (
    nearest_arguments,
    nearest_class,
    nearest_index,
    nearest_labels,
)
from fastass.kernels.validate import (
    check_classes,
    check_float,
    check_label_values,
    check_labels,
    check_map,
)

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
) -> tuple[Tensor, Tensor]:
    """The definition: a forward with detached features, another with detached weights."""
    C = weight2.shape[0] // 2
    classes = nearest_labels(labels, (features.shape[2], features.shape[3])).long()
    valid = classes != ignore_index

    def loss(features: Tensor, weights: list[Tensor], shift: int) -> Tensor:
        w1, b1, w2, b2 = weights
        hidden = F.leaky_relu(F.conv2d(features, w1[:, :, None, None], b1), negative_slope)
        logits = F.conv2d(hidden, w2[:, :, None, None], b2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = torch.where(valid, classes + shift, -100)
        total = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
        return total / valid.sum().clamp(min=1)

    weights = [weight1, bias1, weight2, bias2]
    domain_loss = loss(features.detach(), weights, C * domain)
    if not adversarial:
        return domain_loss, torch.zeros_like(domain_loss)
    return domain_loss, loss(features, [weight.detach() for weight in weights], C)


# --- Triton ---------------------------------------------------------------------------------------


@jit
def _tail_kernel(
    hidden,
    labels,
    bias1,
    weight2,
    bias2,
    domain_gradient,
    adversarial_gradient,
    logit_gradient,
    pixel_losses,
    bias1_partials,
    bias2_partials,
    slope,
    pixels,
    image_pixels,
    hidden_channels,
    width,
    label_height,
    label_width,
    scale_y,
    scale_x,
    num_classes,
    ignore_index,
    DOMAIN: tl.constexpr,
    STORE_DOMAIN: tl.constexpr,
    STORE_ADVERSARIAL: tl.constexpr,
    STORE_WEIGHTS: tl.constexpr,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
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
        labels,
        p // image_pixels,
        p % image_pixels,
        p < pixels,
        width,
        label_height,
        label_width,
        scale_y,
        scale_x,
        num_classes,
        ignore_index,
    )
    valid = label >= 0
    count = tl.sum(valid.to(tl.int32), 0)
    # A label that is no class makes the losses NaN.
    poison = tl.where(label == -2, float("nan"), 0.0)
    tl.store(pixel_losses + 2 * pixels + p, valid.to(tl.float32), mask=p < pixels)
    base = tile.to(tl.int64) * PIXELS * hidden_channels
    hidden += base
    domain_gradient += base
    adversarial_gradient += base
    rows = (p < pixels)[:, None]
    if count > 0:
        logits = tl.zeros((PIXELS, OUTPUTS), tl.float32)
        for start in range(0, hidden_channels, HIDDEN):
            m = start + tl.arange(0, HIDDEN)
            inside = (m < hidden_channels)[None, :]
            x = tl.load(
                hidden + r[:, None] * hidden_channels + m[None, :],
                mask=valid[:, None] & inside,
                other=0.0,
            ).to(tl.float32)
            x += tl.load(bias1 + m, mask=m < hidden_channels, other=0.0).to(tl.float32)[None, :]
            x = tl.where(x > 0, x, x * slope)
            w = tl.load(
                weight2 + o[None, :] * hidden_channels + m[:, None],
                mask=(o < outputs)[None, :] & (m < hidden_channels)[:, None],
                other=0.0,
            )
            if INTERPRET:
                logits += tl.dot(x, w.to(tl.float32))
            else:
                kind = hidden.dtype.element_ty
                logits = tl.dot(x.to(kind), w.to(kind), logits, input_precision=PRECISION)
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
            tl.store(
                logit_gradient
                + tile.to(tl.int64) * PIXELS * OUTPUTS
                + r[:, None] * OUTPUTS
                + o[None, :],
                gradient.to(logit_gradient.dtype.element_ty),
                mask=rows,
            )
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
                if STORE_DOMAIN:
                    if INTERPRET:
                        d = tl.dot(gradient, w.to(tl.float32)) * factor
                    else:
                        kind = hidden.dtype.element_ty
                        d = (
                            tl.dot(gradient.to(kind), w.to(kind), input_precision=PRECISION)
                            * factor
                        )
                    tl.store(
                        domain_gradient + place,
                        d.to(domain_gradient.dtype.element_ty),
                        mask=rows & inside,
                    )
                    if STORE_WEIGHTS:
                        tl.store(
                            bias1_partials + tile * hidden_channels + m,
                            tl.sum(d, 0),
                            mask=m < hidden_channels,
                        )
                if STORE_ADVERSARIAL:
                    if INTERPRET:
                        d = tl.dot(target, w.to(tl.float32)) * factor
                    else:
                        kind = hidden.dtype.element_ty
                        d = tl.dot(target.to(kind), w.to(kind), input_precision=PRECISION) * factor
                    tl.store(
                        adversarial_gradient + place,
                        d.to(adversarial_gradient.dtype.element_ty),
                        mask=rows & inside,
                    )
    else:
        tl.store(pixel_losses + p, poison, mask=p < pixels)
        tl.store(pixel_losses + pixels + p, poison, mask=p < pixels)
        zero = tl.zeros((PIXELS, HIDDEN), tl.float32)
        if STORE_WEIGHTS:
            tl.store(
                logit_gradient
                + tile.to(tl.int64) * PIXELS * OUTPUTS
                + r[:, None] * OUTPUTS
                + o[None, :],
                tl.zeros((PIXELS, OUTPUTS), tl.float32).to(logit_gradient.dtype.element_ty),
                mask=rows,
            )
            tl.store(bias2_partials + tile * OUTPUTS + o, tl.zeros((OUTPUTS,), tl.float32))
        for start in range(0, hidden_channels, HIDDEN):
            m = start + tl.arange(0, HIDDEN)
            inside = rows & (m < hidden_channels)[None, :]
            place = r[:, None] * hidden_channels + m[None, :]
            if STORE_DOMAIN:
                tl.store(
                    domain_gradient + place, zero.to(domain_gradient.dtype.element_ty), mask=inside
                )
            if STORE_ADVERSARIAL:
                tl.store(
                    adversarial_gradient + place,
                    zero.to(adversarial_gradient.dtype.element_ty),
                    mask=inside,
                )
            if STORE_WEIGHTS:
                tl.store(
                    bias1_partials + tile * hidden_channels + m,
                    tl.zeros((HIDDEN,), tl.float32),
                    mask=m < hidden_channels,
                )


@jit
def _weight2_kernel(
    hidden,
    bias1,
    logit_gradient,
    partials,
    slope,
    pixels,
    hidden_channels,
    pixels_per_part,
    PIXELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRET: tl.constexpr,
):
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
        if INTERPRET:
            total += tl.dot(g.to(tl.float32), x)
        else:
            kind = hidden.dtype.element_ty
            total = tl.dot(g.to(kind), x.to(kind), total, input_precision=PRECISION)
    tl.store(
        partials + (part * OUTPUTS + o).to(tl.int64)[:, None] * hidden_channels + m[None, :],
        total,
        mask=(m < hidden_channels)[None, :],
    )


_PARTS = 32  # ranges of pixels of the second weight's gradient


def _tiles(C: int) -> dict[str, Any]:
    return {
        "OUTPUTS": power_of_2(2 * C, 16),
        # float32 keeps its accuracy on tensor cores with three products, unless TF32 is allowed.
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
        "INTERPRET": interpreting(),
    }


# As many pixels as the registers hold (the gate shows spills): every tile reads all of weight2.
def _tail_tiles(dtype: torch.dtype, C: int) -> dict[str, Any]:
    if dtype == torch.float32:
        return {"PIXELS": 16, "HIDDEN": 32, **_tiles(C)}
    return {"PIXELS": 128 if C <= 32 else 64, "HIDDEN": 64, **_tiles(C)}


def _weight2_tiles(dtype: torch.dtype, C: int) -> dict[str, Any]:
    return {"PIXELS": 64, "HIDDEN": 32 if dtype == torch.float32 else 64, **_tiles(C)}


_WARPS = 8


def triton_forward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, _, h, w = features.shape
    M, C, P = weight1.shape[0], weight2.shape[0] // 2, B * h * w
    labels, dtype = labels.contiguous(), features.dtype
    rows = _rows(features)
    hidden = rows @ weight1.t()
    tiles = _tail_tiles(dtype, C)
    count = cdiv(P, tiles["PIXELS"])
    # In domain 1 both losses are the same, and so are their gradients.
    store_domain = weight_gradient or (feature_gradient and domain == 1)
    store_adversarial = feature_gradient and domain == 0
    nothing = hidden.new_empty(0)

    def partial(*shape: int) -> Tensor:
        return hidden.new_empty(shape, dtype=torch.float32)

    domain_gradient = torch.empty_like(hidden) if store_domain else nothing
    adversarial_gradient = torch.empty_like(hidden) if store_adversarial else domain_gradient
    logit_gradient = hidden.new_empty((P, tiles["OUTPUTS"])) if weight_gradient else nothing
    pixel_losses = partial(3, P)
    bias1_partials = partial(count, M) if weight_gradient else nothing
    bias2_partials = partial(count, tiles["OUTPUTS"]) if weight_gradient else nothing
    bias1, bias2 = bias1.contiguous(), bias2.contiguous()
    weight2 = weight2.to(dtype).contiguous()  # each tile reads it
    _tail_kernel[(count,)](
        hidden=hidden,
        labels=labels,
        bias1=bias1,
        weight2=weight2,
        bias2=bias2,
        domain_gradient=domain_gradient,
        adversarial_gradient=adversarial_gradient,
        logit_gradient=logit_gradient,
        pixel_losses=pixel_losses,
        bias1_partials=bias1_partials,
        bias2_partials=bias2_partials,
        slope=negative_slope,
        pixels=P,
        image_pixels=h * w,
        hidden_channels=M,
        num_classes=C,
        ignore_index=ignore_index,
        **nearest_arguments((h, w), (labels.shape[1], labels.shape[2])),
        DOMAIN=domain,
        STORE_DOMAIN=store_domain,
        STORE_ADVERSARIAL=store_adversarial,
        STORE_WEIGHTS=weight_gradient,
        **tiles,
        num_warps=_WARPS,
    )
    domain_sum, adversarial_sum, valid = pixel_losses.sum(1)
    scale = 1 / valid.clamp(min=1)
    gradients = [partial(0) for _ in range(4)]
    if weight_gradient:
        tiles = _weight2_tiles(dtype, C)
        per_part = cdiv(cdiv(P, _PARTS), tiles["PIXELS"]) * tiles["PIXELS"]
        parts = cdiv(P, per_part)
        partials = partial(parts, tiles["OUTPUTS"], M)
        _weight2_kernel[(cdiv(M, tiles["HIDDEN"]), parts)](
            hidden=hidden,
            bias1=bias1,
            logit_gradient=logit_gradient,
            partials=partials,
            slope=negative_slope,
            pixels=P,
            hidden_channels=M,
            pixels_per_part=per_part,
            **tiles,
            num_warps=_WARPS,
        )
        gradients = [
            _matmul_float32(domain_gradient.t(), rows) * scale,
            bias1_partials.sum(0) * scale,
            partials.sum(0)[: 2 * C] * scale,
            bias2_partials.sum(0)[: 2 * C] * scale,
        ]
    hidden_gradient = adversarial_gradient if feature_gradient else hidden.new_empty((0, M))
    return (
        domain_sum * scale,
        adversarial_sum * scale if adversarial else torch.zeros_like(scale),
        scale,
        hidden_gradient,
        *gradients,
    )


def _matmul_float32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with a float32 result: a sum over all pixels can exceed the range of float16."""
    if a.dtype == torch.float32 or not a.is_cuda:
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)


def triton_backward(
    gradient: Tensor,
    scale: Tensor,
    hidden_gradient: Tensor,
    labels: Tensor,
    weight1: Tensor,
    size: list[int],
    num_classes: int,
    ignore_index: int,
) -> Tensor:
    factor = gradient.float() * scale
    dtype = weight1.dtype
    if dtype == torch.float16:
        # A factor of 1 / pixels would leave float16's normal range in the weights.
        rows = (hidden_gradient @ weight1).mul_(factor)
    else:
        rows = hidden_gradient @ (weight1.float() * factor).to(dtype)
    return _map(rows, labels.shape[0], size)


def _launches() -> tuple[Launch, ...]:
    """Source (both losses) and target (domain loss) batches of 1280×720 images, N=2048, M=1024."""
    found = []
    for dtype, C, domain in (
        (torch.bfloat16, 19, 0),
        (torch.bfloat16, 19, 1),
        (torch.float16, 19, 0),
        (torch.float32, 19, 0),
        (torch.bfloat16, 64, 0),
        (torch.float32, 64, 0),
    ):
        tiles = {**_tail_tiles(dtype, C), "INTERPRET": False}
        float32 = torch.float32
        tail = {
            **{"hidden": dtype, "labels": torch.uint8},
            **{"bias1": float32, "weight2": dtype, "bias2": float32},
            **{"domain_gradient": dtype, "adversarial_gradient": dtype, "logit_gradient": dtype},
            **{"pixel_losses": float32, "bias1_partials": float32, "bias2_partials": float32},
            **{"slope": 0.2, "pixels": 8 * 91 * 161, "image_pixels": 91 * 161},
            **{"hidden_channels": 1024, "num_classes": C, "ignore_index": 255},
            **nearest_arguments((91, 161), (720, 1280)),
        }
        flags = {
            "DOMAIN": domain,
            "STORE_DOMAIN": True,
            "STORE_ADVERSARIAL": domain == 0,
            "STORE_WEIGHTS": True,
        }
        name = f"{str(dtype).removeprefix('torch.')} C={C}"
        found.append(
            Launch(
                f"tail {name} domain {domain}",
                _tail_kernel,
                tail,
                {**flags, **tiles},
                _WARPS,
                dot=True,
                wide=True,
            )
        )
        if domain == 0:
            arguments = {
                **{"hidden": dtype, "bias1": float32, "logit_gradient": dtype, "partials": float32},
                **{"slope": 0.2, "pixels": 8 * 91 * 161, "hidden_channels": 1024},
                "pixels_per_part": 3712,
            }
            found.append(
                Launch(
                    f"weight2 {name}",
                    _weight2_kernel,
                    arguments,
                    {**_weight2_tiles(dtype, C), "INTERPRET": False},
                    _WARPS,
                    dot=True,
                    wide=True,
                )
            )
    return tuple(found)


AOT = _launches()

# --- native ---------------------------------------------------------------------------------------

BLOCK = 2048  # pixels whose features, hidden rows and gradients are in memory at a time


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows [n, K] · weight [O, K]ᵀ as a 1×1 convolution: oneDNN is faster at it than the BLAS."""
    n, K = rows.shape
    image = rows.view(1, n, 1, K).permute(0, 3, 1, 2)
    return F.conv2d(image, weight[:, :, None, None]).permute(0, 2, 3, 1).reshape(n, -1)


def _valid_pixels(
    labels: Tensor, size: list[int], num_classes: int, ignore_index: int
) -> tuple[Tensor, Tensor, int]:
    """Indices of all pixels, the valid ones first; the classes of those; how many they are."""
    (B, H, W), (h, w) = labels.shape, size
    index = torch.empty(B * h * w, dtype=torch.int64)
    classes = torch.empty(B * h * w, dtype=torch.uint8)
    count = torch.empty(1, dtype=torch.int64)
    native.call(
        "valid_pixels",
        labels.contiguous(),
        nearest_index(h, H),
        nearest_index(w, W),
        *(B, h, w, H, W),
        num_classes,
        ignore_index,
        index,
        classes,
        count,
    )
    return index, classes, int(count)


def native_forward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, N, h, w = features.shape
    M, C, dtype = weight1.shape[0], weight2.shape[0] // 2, features.dtype
    index, classes, count = _valid_pixels(labels, [h, w], C, ignore_index)
    rows = _rows(features)
    bias1, weight2, bias2 = (t.float().contiguous() for t in (bias1, weight2, bias2))
    nothing = torch.empty(0)
    hidden_gradient = torch.empty((B * h * w if feature_gradient else 0, M), dtype=dtype)
    shapes = ((M, N), (M,), (2 * C, M), (2 * C,))
    gradients = [torch.zeros(shape) if weight_gradient else nothing.clone() for shape in shapes]
    sums = torch.zeros(2, dtype=torch.float64)
    block = max(1, min(BLOCK, count))
    gathered = torch.empty((0 if count == len(rows) else block, N), dtype=dtype)
    for start in range(0, count, block):
        end = min(start + block, count)
        if count == len(rows):
            x = rows[start:end]
        else:
            x = torch.index_select(rows, 0, index[start:end], out=gathered[: end - start])
        hidden = _product(x, weight1).float()
        adversarial_gradient = None
        if feature_gradient:
            adversarial_gradient = hidden_gradient[start:end]
            if dtype != torch.float32:
                adversarial_gradient = torch.empty_like(hidden)
        native.call(
            "pixel_discriminator",
            hidden,
            classes[start:end],
            end - start,
            M,
            C,
            bias1,
            weight2,
            bias2,
            negative_slope,
            domain,
            weight_gradient,
            adversarial_gradient,
            sums,
            *gradients[1:],
            torch.get_num_threads(),
        )
        if weight_gradient:
            if dtype == torch.float32:
                gradients[0].addmm_(hidden.t(), x)
            else:
                gradients[0] += torch.mm(hidden.t().to(dtype), x)
        if adversarial_gradient is not None and dtype != torch.float32:
            hidden_gradient[start:end] = adversarial_gradient
    hidden_gradient[count:] = 0  # never read: an output has no undefined values
    scale = 1 / max(count, 1)
    domain_loss, adversarial_loss = (sums * scale).float().unbind()
    return (
        domain_loss.clone(),
        adversarial_loss.clone() if adversarial else torch.zeros(()),
        torch.tensor(scale, dtype=torch.float32),
        hidden_gradient,
        gradients[0].mul_(scale),
        gradients[1].mul_(scale),
        gradients[2].mul_(scale),
        gradients[3].mul_(scale),
    )


def native_backward(
    gradient: Tensor,
    scale: Tensor,
    hidden_gradient: Tensor,
    labels: Tensor,
    weight1: Tensor,
    size: list[int],
    num_classes: int,
    ignore_index: int,
) -> Tensor:
    index, _, count = _valid_pixels(labels, size, num_classes, ignore_index)
    factor = float(gradient) * float(scale)
    rows = torch.empty((len(index), weight1.shape[1]), dtype=weight1.dtype)
    rows.index_fill_(0, index[count:], 0)
    # A factor of 1 / pixels would leave float16's normal range in the weights.
    half = weight1.dtype == torch.float16
    scaled = (weight1 if half else weight1 * factor).t()
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        out = _product(hidden_gradient[start:end], scaled)
        rows.index_copy_(0, index[start:end], out.mul_(factor) if half else out)
    return _map(rows, labels.shape[0], size)


# --- registration ---------------------------------------------------------------------------------


def _rows(features: Tensor) -> Tensor:
    """[P, N]: a view of channels-last features, else a copy."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def _map(rows: Tensor, batch: int, size: list[int]) -> Tensor:
    """rows [P, N] as [B, N, h, w] in channels-last memory."""
    return rows.view(batch, *size, -1).permute(0, 3, 1, 2)


_forward = torch.library.custom_op(
    "fastass::pixel_discriminator_loss", triton_forward, mutates_args=(), device_types="cuda"
)
_forward.register_kernel("cpu")(native_forward)
_backward = torch.library.custom_op(
    "fastass::pixel_discriminator_loss_backward",
    triton_backward,
    mutates_args=(),
    device_types="cuda",
)
_backward.register_kernel("cpu")(native_backward)


@_forward.register_fake
def _(
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


@_backward.register_fake
def _(
    gradient: Tensor,
    scale: Tensor,
    hidden_gradient: Tensor,
    labels: Tensor,
    weight1: Tensor,
    size: list[int],
    num_classes: int,
    ignore_index: int,
) -> Tensor:
    h, w = size
    rows = weight1.new_empty((labels.shape[0] * h * w, weight1.shape[1]))
    return _map(rows, labels.shape[0], size)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, labels, weight1, bias1, weight2, bias2 = inputs[:6]
    ctx.save_for_backward(labels, weight1, *output[2:])
    ctx.size, ctx.classes = list(features.shape[2:]), weight2.shape[0] // 2
    ctx.ignore_index, ctx.weight_gradient, ctx.feature_gradient = inputs[9:12]
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
        )
    if ctx.weight_gradient:
        weights = [
            (gradient * domain_gradient).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
    return features, None, *weights, None, None, None, None, None, None


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

    Under autocast features and weight1 are cast to autocast's dtype; sums, softmax and losses are
    float32 always.

    Returns:
        domain loss (gradients to weights and biases only) and adversarial loss (gradient to the
        features only; a zero without gradient unless `adversarial`), both scalar float32 and means
        over the valid pixels of the batch; 0 with zero gradients where there are none.

    Raises:
        TypeError, ValueError: an argument's dtype, shape, device or range; on a CPU also a label
            that is neither a class nor `ignore_index` (on CUDA, where looking would stall the
            queue, both losses are NaN).
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
        check_label_values(labels, weight2.shape[0] // 2, ignore_index)
        return reference(
            features,
            labels,
            *weights,
            domain=domain,
            adversarial=adversarial,
            negative_slope=negative_slope,
            ignore_index=ignore_index,
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
