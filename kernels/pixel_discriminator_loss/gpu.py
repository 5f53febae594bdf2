"""The pixel discriminator's losses (Eq. 7–8) on a GPU: three products by cuBLAS, a kernel between.

The contract is in `op.py`, the kernels are in `gpu_tail.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastass.kernels.aot.launch_spec import Bounds, Launch
from fastass.kernels.checks import MAX_CLASSES
from fastass.kernels.launch import cdiv, interpreting, power_of_2
from fastass.kernels.layout import map_of, rows_of
from fastass.kernels.nearest_gpu import nearest_arguments
from fastass.kernels.pixel_discriminator_loss.gpu_tail import tail_kernel, weight2_kernel

_PARTS = 32  # ranges of pixels of the second weight's gradient


def _tiles(C: int) -> dict[str, Any]:
    return {
        "OUTPUTS": power_of_2(2 * C, 16),
        # float32 keeps its accuracy on tensor cores with three products, unless TF32 is allowed.
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
        "INTERPRET": interpreting(),
    }


# Every tile reads all of weight2. With 64 pixels a multiprocessor holds two CTAs up to 32 classes
# (sm_80, both losses: one).
def _tail_tiles(dtype: torch.dtype, C: int) -> dict[str, Any]:
    if dtype == torch.float32:
        return {"PIXELS": 16, "HIDDEN": 32, **_tiles(C)}
    return {"PIXELS": 64, "HIDDEN": 64, **_tiles(C)}


def _weight2_tiles(dtype: torch.dtype, C: int) -> dict[str, Any]:
    return {"PIXELS": 64, "HIDDEN": 32 if dtype == torch.float32 else 64, **_tiles(C)}


_WARPS = 8


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
    B, _, h, w = features.shape
    M, C, P = weight1.shape[0], weight2.shape[0] // 2, B * h * w
    labels, dtype = labels.contiguous(), features.dtype
    rows = rows_of(features)
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
    tail_kernel[(count,)](
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
        **nearest_arguments((h, w), (labels.shape[1], labels.shape[2]), aligned),
        ALIGNED=aligned,
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
        weight2_kernel[(cdiv(M, tiles["HIDDEN"]), parts)](
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
    factor = gradient.float() * scale
    dtype = weight1.dtype
    if dtype == torch.float16:
        # A factor of 1 / pixels would leave float16's normal range in the weights.
        rows = (hidden_gradient @ weight1).mul_(factor)
    else:
        rows = hidden_gradient @ (weight1.float() * factor).to(dtype)
    return map_of(rows, labels.shape[0], size)


def _launches() -> tuple[Launch, ...]:
    """Source (both losses) and target (domain loss) batches of 1280×720 images, N=2048, M=1024."""
    found = []
    for dtype, C, domain, aligned in (
        (torch.bfloat16, 19, 0, False),
        (torch.bfloat16, 19, 0, True),
        (torch.bfloat16, 19, 1, False),
        (torch.float16, 19, 0, False),
        (torch.float32, 19, 0, False),
        (torch.bfloat16, MAX_CLASSES, 0, False),
        (torch.float32, MAX_CLASSES, 0, False),
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
            **nearest_arguments((91, 161), (720, 1280), aligned),
        }
        flags = {
            "DOMAIN": domain,
            "STORE_DOMAIN": True,
            "STORE_ADVERSARIAL": domain == 0,
            "STORE_WEIGHTS": True,
            "ALIGNED": aligned,
        }
        name = f"{str(dtype).removeprefix('torch.')} C={C}{' aligned' if aligned else ''}"
        found.append(
            Launch(
                f"tail {name} domain {domain}",
                tail_kernel,
                tail,
                {**flags, **tiles},
                _WARPS,
                dot=True,
                wide=True,
                bounds=Bounds(ctas=2 if domain == 1 and C <= 32 else 1),
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
                    weight2_kernel,
                    arguments,
                    {**_weight2_tiles(dtype, C), "INTERPRET": False},
                    _WARPS,
                    dot=True,
                    wide=True,
                )
            )
    return tuple(found)


AOT = _launches()
