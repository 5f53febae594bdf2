"""The native losses of the pixel discriminator (Eq. 7–8), on the valid pixels alone.

The contract is in `op.py`. The valid pixels go through the layers
a block at a time; between the large products, which torch does, everything is native.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.kernels import native_library
from fastass.kernels.layout import map_of, rows_of
from fastass.kernels.nearest import nearest_index

BLOCK = 1024  # pixels whose features and hidden rows are in memory at a time
# … whose feature gradients are: few, since a backward begins when most else is in memory.
GRADIENT_BLOCK = 256


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows [n, K] · weight [O, K]ᵀ as a 1×1 convolution: oneDNN is faster at it than the BLAS."""
    n, K = rows.shape
    image = rows.view(1, n, 1, K).permute(0, 3, 1, 2)
    return F.conv2d(image, weight[:, :, None, None]).permute(0, 2, 3, 1).reshape(n, -1)


def _valid_pixels(
    labels: Tensor, size: list[int], num_classes: int, ignore_index: int, aligned: bool
) -> tuple[Tensor, Tensor, int]:
    """Indices of all pixels, the valid ones first; the classes of those; how many they are."""
    (B, H, W), (h, w) = labels.shape, size
    index = torch.empty(B * h * w, dtype=torch.int64)
    classes = torch.empty(B * h * w, dtype=torch.uint8)
    count = torch.empty(1, dtype=torch.int64)
    native_library.call(
        "valid_pixels",
        labels.contiguous(),
        nearest_index(h, H, aligned),
        nearest_index(w, W, aligned),
        *(B, h, w, H, W),
        num_classes,
        ignore_index,
        index,
        classes,
        count,
    )
    return index, classes, int(count)


def forward(
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
    B, N, h, w = features.shape
    M, C, dtype = weight1.shape[0], weight2.shape[0] // 2, features.dtype
    index, classes, count = _valid_pixels(labels, [h, w], C, ignore_index, aligned)
    rows = rows_of(features)
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
        native_library.call(
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


def backward(
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
    index, _, count = _valid_pixels(labels, size, num_classes, ignore_index, aligned)
    factor = float(gradient) * float(scale)
    rows = torch.empty((len(index), weight1.shape[1]), dtype=weight1.dtype)
    rows.index_fill_(0, index[count:], 0)
    # A factor of 1 / pixels would leave float16's normal range before the product.
    half = weight1.dtype == torch.float16
    for start in range(0, count, GRADIENT_BLOCK):
        end = min(start + GRADIENT_BLOCK, count)
        hidden = hidden_gradient[start:end]
        out = torch.mm(hidden if half else hidden * factor, weight1)
        rows.index_copy_(0, index[start:end], out.mul_(factor) if half else out)
    return map_of(rows, labels.shape[0], size)
