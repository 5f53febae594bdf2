"""Triton kernels of the class means (Eq. 4): `fastass.kernels.class_mean.op` has the contract.

The forward makes the class map at feature size, then onehotᵀ · F over ranges of pixels, then a sum
over the ranges in order; the backward is a table look-up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastass.kernels.aot.launch_spec import Bounds, Launch
from fastass.kernels.checks import MAX_CLASSES
from fastass.kernels.launch import cdiv, interpreting, power_of_2
from fastass.kernels.layout import dense, empty_map
from fastass.kernels.nearest_gpu import nearest_arguments, nearest_class

PROGRAMS = 512  # about four for each multiprocessor of a large GPU: what a forward is split into


@triton.jit
def _class_map_kernel(
    labels, classes, partial_counts, pixels, width, label_height, label_width, scale_y, scale_x,
    num_classes, ignore_index, MAP_PIXELS: tl.constexpr, BINS: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """The class of every feature pixel, as `nearest_class` gives it, and how often each occurs.

    Bin num_classes counts the labels that are no class, the next one the ignored pixels.
    """
    part, image = tl.program_id(0), tl.program_id(1)
    p = part * MAP_PIXELS + tl.arange(0, MAP_PIXELS)
    label = nearest_class(
        labels, image, p, p < pixels, width, label_height, label_width, scale_y, scale_x,
        num_classes, ignore_index, ALIGNED,
    )  # fmt: skip
    tl.store(classes + image.to(tl.int64) * pixels + p, label.to(tl.int16), mask=p < pixels)
    bin_of = tl.where(label == -1, num_classes + 1, tl.where(label == -2, num_classes, label))
    counts = tl.histogram(bin_of, BINS)
    k = tl.arange(0, BINS)
    row = (image * tl.num_programs(0) + part) * (num_classes + 1)
    tl.store(partial_counts + row + k, counts, mask=k <= num_classes)


@triton.jit
def _forward_kernel(
    features, classes, partials, channels, pixels, num_classes, image_stride, channel_stride,
    pixel_stride, pixels_per_part, CLASSES: tl.constexpr, CHANNELS: tl.constexpr,
    PIXELS: tl.constexpr, SPLIT: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Sums of one range of pixels of one image, for one block of channels: onehotᵀ · F.

    Each tile's sum is a matrix product of its own and is added in float32: matrix units round a
    long chain of sums worse than float32 does. (`max_num_imprecise_acc` keeps Triton from making
    the addition a part of the product again.)
    """
    block, part, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n = block * CHANNELS + tl.arange(0, CHANNELS)
    c = tl.arange(0, CLASSES)
    first = part * pixels_per_part
    last = tl.minimum(first + pixels_per_part, pixels)
    base = features + image.to(tl.int64) * image_stride
    classes += image.to(tl.int64) * pixels
    sums = tl.zeros((CLASSES, CHANNELS), tl.float32)
    for start in range(first, last, PIXELS):
        p = start + tl.arange(0, PIXELS)
        label = tl.load(classes + p, mask=p < last, other=-1).to(tl.int32)
        # Ignored pixels are not read.
        value = tl.load(
            base + p[:, None] * pixel_stride + n[None, :] * channel_stride,
            mask=(label >= 0)[:, None] & (n < channels)[None, :],
            other=0.0,
        )
        member = label[None, :] == c[:, None]
        if INTERPRET:
            sums += tl.dot(member.to(tl.float32), value.to(tl.float32))
        elif SPLIT:
            # float32 is the sum of three bfloat16, and one-hot products are exact: float32
            # accuracy from bfloat16 matrix instructions.
            high = value.to(tl.bfloat16)
            rest = value - high.to(tl.float32)
            middle = rest.to(tl.bfloat16)
            low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
            onehot = member.to(tl.bfloat16)
            tile = tl.dot(onehot, middle, tl.dot(onehot, low))
            sums += tl.dot(onehot, high, tile)
        else:
            sums += tl.dot(member.to(value.dtype), value, max_num_imprecise_acc=PIXELS)
    row = (image * tl.num_programs(1) + part).to(tl.int64) * num_classes + c
    tl.store(
        partials + row[:, None] * channels + n[None, :],
        sums,
        mask=(c < num_classes)[:, None] & (n < channels)[None, :],
    )


@triton.jit
def _reduce_kernel(
    partials, partial_counts, means, counts, channels, parts, count_parts, num_classes,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean of one class of one image, for one block of channels, over the parts in order."""
    block, c, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n = block * CHANNELS + tl.arange(0, CHANNELS)
    count, unknown = 0, 0
    for part in range(count_parts):
        at = partial_counts + (image * count_parts + part) * (num_classes + 1)
        count += tl.load(at + c)
        unknown += tl.load(at + num_classes)
    total = tl.zeros((CHANNELS,), tl.float32)
    for part in range(parts):
        row = (image * parts + part).to(tl.int64) * num_classes + c
        total += tl.load(partials + row * channels + n, mask=n < channels, other=0.0)
    # A label that is no class turns the means of its image into NaN.
    mean = tl.where(unknown > 0, float("nan"), total / tl.maximum(count, 1))
    row = image * num_classes + c
    tl.store(means + row * channels + n, mean, mask=n < channels)
    tl.store(counts + row, count, mask=block == 0)


@triton.jit
def _backward_kernel(
    gradient, counts, labels, out, channels, pixels, width, label_height, label_width, scale_y,
    scale_x, num_classes, ignore_index, image_stride, channel_stride, pixel_stride,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Each pixel takes gradient / count of its class; ignored pixels take zero."""
    n = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    p = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    image = tl.program_id(2)
    label = nearest_class(
        labels, image, p, p < pixels, width, label_height, label_width, scale_y, scale_x,
        num_classes, ignore_index, ALIGNED,
    )  # fmt: skip
    row = image * num_classes + label
    count = tl.load(counts + row, mask=label >= 0, other=1).to(tl.float32)
    value = tl.load(
        gradient + row[:, None] * channels + n[None, :],
        mask=(label >= 0)[:, None] & (n < channels)[None, :],
        other=0.0,
    )
    tl.store(
        out
        + image.to(tl.int64) * image_stride
        + p[:, None] * pixel_stride
        + n[None, :] * channel_stride,
        (value / count[:, None]).to(out.dtype.element_ty),
        mask=(p < pixels)[:, None] & (n < channels)[None, :],
    )


def _map_tiles(num_classes: int) -> dict[str, int]:
    return {"MAP_PIXELS": 1024, "BINS": power_of_2(num_classes + 2)}


def _forward_tiles(dtype: torch.dtype, channels_last: bool, num_classes: int) -> dict[str, int]:
    """Up to 32 classes a multiprocessor holds four CTAs (float32: two to four); nothing spills."""
    classes = power_of_2(num_classes, 16)
    return {
        "CLASSES": classes,
        "CHANNELS": max(32, min(128 if channels_last else 64, 4096 // classes)),
        "PIXELS": 32,
        "SPLIT": dtype == torch.float32,
        "INTERPRET": interpreting(),
    }


def _forward_warps(num_classes: int) -> int:
    return 4 if num_classes <= 32 else 8


def _backward_tiles(channels_last: bool) -> dict[str, int]:
    # The contiguous direction is the long one.
    return {"CHANNELS": 256, "PIXELS": 16} if channels_last else {"CHANNELS": 32, "PIXELS": 128}


_REDUCE_TILES = {"CHANNELS": 256}
_STAGES = 4  # of the forward: tiles in flight
_WARPS = {"map": 4, "reduce": 4, "backward": 4}


def _strides(channels: int, pixels: int, channels_last: bool) -> dict[str, int]:
    return {
        "pixels": pixels,
        "image_stride": channels * pixels,
        "channel_stride": 1 if channels_last else pixels,
        "pixel_stride": channels if channels_last else 1,
    }


def _parts(batch: int, channels: int, pixels: int, tiles: dict[str, int]) -> tuple[int, int]:
    """How many ranges the pixels of an image are split into, and pixels a range."""
    programs = batch * cdiv(channels, tiles["CHANNELS"])
    pixel_tiles = cdiv(pixels, tiles["PIXELS"])
    per_part = cdiv(pixel_tiles, min(pixel_tiles, cdiv(PROGRAMS, programs))) * tiles["PIXELS"]
    return cdiv(pixels, per_part), per_part


def forward(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    features, channels_last = dense(features)
    labels = labels.contiguous()
    B, N, h, w = features.shape
    tiles = _forward_tiles(features.dtype, channels_last, num_classes)
    parts, per_part = _parts(B, N, h * w, tiles)
    map_tiles = _map_tiles(num_classes)
    count_parts = cdiv(h * w, map_tiles["MAP_PIXELS"])
    classes = features.new_empty((B, h * w), dtype=torch.int16)
    partial_counts = features.new_empty((B, count_parts, num_classes + 1), dtype=torch.int32)
    _class_map_kernel[(count_parts, B)](
        labels=labels,
        classes=classes,
        partial_counts=partial_counts,
        pixels=h * w,
        num_classes=num_classes,
        ignore_index=ignore_index,
        **nearest_arguments((h, w), (labels.shape[1], labels.shape[2]), aligned),
        ALIGNED=aligned,
        **map_tiles,
        num_warps=_WARPS["map"],
    )
    partials = features.new_empty((B, parts, num_classes, N), dtype=torch.float32)
    means = features.new_empty((B, num_classes, N), dtype=torch.float32)
    counts = features.new_empty((B, num_classes), dtype=torch.int64)
    _forward_kernel[(cdiv(N, tiles["CHANNELS"]), parts, B)](
        features=features,
        classes=classes,
        partials=partials,
        channels=N,
        pixels_per_part=per_part,
        num_classes=num_classes,
        **_strides(N, h * w, channels_last),
        **tiles,
        num_warps=_forward_warps(num_classes),
        num_stages=_STAGES,
    )
    _reduce_kernel[(cdiv(N, _REDUCE_TILES["CHANNELS"]), num_classes, B)](
        partials=partials,
        partial_counts=partial_counts,
        means=means,
        counts=counts,
        channels=N,
        parts=parts,
        count_parts=count_parts,
        num_classes=num_classes,
        **_REDUCE_TILES,
        num_warps=_WARPS["reduce"],
    )
    return means, counts


def backward(
    gradient: Tensor,
    counts: Tensor,
    labels: Tensor,
    size: list[int],
    ignore_index: int,
    dtype: torch.dtype,
    channels_last: bool,
    aligned: bool,
) -> Tensor:
    B, C, N = gradient.shape
    h, w = size
    out = empty_map(gradient, (B, N, h, w), dtype, channels_last)
    labels = labels.contiguous()
    tiles = _backward_tiles(channels_last)
    _backward_kernel[(cdiv(N, tiles["CHANNELS"]), cdiv(h * w, tiles["PIXELS"]), B)](
        gradient=gradient.contiguous(),
        counts=counts,
        labels=labels,
        out=out,
        channels=N,
        num_classes=C,
        ignore_index=ignore_index,
        **nearest_arguments((h, w), (labels.shape[1], labels.shape[2]), aligned),
        ALIGNED=aligned,
        **_strides(N, h * w, channels_last),
        **tiles,
        num_warps=_WARPS["backward"],
    )
    return out


_AOT_PIXELS = 3712  # of a range: 4 ranges per image


def _launches() -> tuple[Launch, ...]:
    """Everything that is launched for 1280×720 images, N = 2048: both layouts, all dtypes."""
    N, pixels = 2048, 91 * 161
    found = [
        Launch(
            "reduce",
            _reduce_kernel,
            {
                "partials": torch.float32,
                "partial_counts": torch.int32,
                "means": torch.float32,
                "counts": torch.int64,
                "channels": N,
                "parts": 33,
                "count_parts": 15,
                "num_classes": 19,
            },
            _REDUCE_TILES,
            _WARPS["reduce"],
        )
    ]
    for C, aligned in ((19, False), (19, True), (MAX_CLASSES, False)):
        labelled = {"num_classes": C, "ignore_index": 255}
        pointers = {"labels": torch.uint8, "classes": torch.int16, "partial_counts": torch.int32}
        sizes = {"pixels": pixels, **nearest_arguments((91, 161), (720, 1280), aligned)}
        found.append(
            Launch(
                f"class map C={C}{' aligned' if aligned else ''}",
                _class_map_kernel,
                {**pointers, **labelled, **sizes},
                {**_map_tiles(C), "ALIGNED": aligned},
                _WARPS["map"],
            )
        )
    for dtype, channels_last, C, aligned in (
        (torch.bfloat16, True, 19, False),
        (torch.bfloat16, True, 19, True),
        (torch.float16, True, 19, False),
        (torch.float32, True, 19, False),
        (torch.bfloat16, True, MAX_CLASSES, False),
        (torch.float32, True, MAX_CLASSES, False),
        (torch.bfloat16, False, 19, False),
        (torch.float32, False, MAX_CLASSES, False),
    ):
        layout = "channels last" if channels_last else "channels first"
        grid = " aligned" if aligned else ""
        name = f"{str(dtype).removeprefix('torch.')} {layout} C={C}{grid}"
        common = {"channels": N, "num_classes": C, **_strides(N, pixels, channels_last)}
        forward = {
            "features": dtype,
            "classes": torch.int16,
            "partials": torch.float32,
            "pixels_per_part": _AOT_PIXELS,
        }
        backward = {
            **{"gradient": torch.float32, "counts": torch.int64, "out": dtype},
            **{"labels": torch.uint8, "ignore_index": 255},
            **nearest_arguments((91, 161), (720, 1280), aligned),
        }
        tiles = {**_forward_tiles(dtype, channels_last, C), "INTERPRET": False}
        bounds = Bounds()
        if C == 19:
            # Instructions per pixel, for the program's block of channels.
            most = 90 if dtype == torch.float32 else 28
            ctas = 2 if dtype == torch.float32 else 4
            bounds = Bounds(ctas, most, _AOT_PIXELS, trips=(_AOT_PIXELS // tiles["PIXELS"],))
        found += [
            Launch(
                f"forward {name}",
                _forward_kernel,
                {**forward, **common},
                tiles,
                _forward_warps(C),
                _STAGES,
                dot=True,
                wide=channels_last,
                bounds=bounds,
            ),
            Launch(
                f"backward {name}",
                _backward_kernel,
                {**backward, **common},
                {**_backward_tiles(channels_last), "ALIGNED": aligned},
                _WARPS["backward"],
                wide=channels_last,
            ),
        ]
    return tuple(found)


AOT = _launches()
