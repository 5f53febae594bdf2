"""Nearest label pixels in Triton: `fastass.kernels.nearest` has the rule."""

from __future__ import annotations

import triton
import triton.language as tl


def nearest_arguments(
    size: tuple[int, int], source: tuple[int, int], aligned: bool = False
) -> dict[str, int | float]:
    """What `nearest_class` takes besides labels and ALIGNED, by name; the launch rounds scale_* to
    float32. (A quotient of integers below 2^24 rounds to float32 by way of float64 as it does
    directly.) aligned: scale_* are the integers h − 1 and w − 1, 1 at least."""
    (h, w), (H, W) = size, source
    return {
        "width": w,
        "label_height": H,
        "label_width": W,
        "scale_y": max(h - 1, 1) if aligned else H / h,
        "scale_x": max(w - 1, 1) if aligned else W / w,
    }


@triton.jit
def nearest_class(
    labels,
    image,
    pixel,
    inside,
    width,
    label_height,
    label_width,
    scale_y,
    scale_x,
    num_classes,
    ignore_index,
    ALIGNED: tl.constexpr,
):
    """Classes of feature pixels (y · width + x) of images; -1 where ignored or not `inside`; -2
    where the label is no class: the kernel makes its result NaN, as nothing is read back to raise.
    """
    if ALIGNED:  # in integers: sides end at 2^14
        y = (2 * (pixel // width) * (label_height - 1) + scale_y) // (2 * scale_y)
        x = (2 * (pixel % width) * (label_width - 1) + scale_x) // (2 * scale_x)
    else:
        y = tl.minimum(((pixel // width).to(tl.float32) * scale_y).to(tl.int32), label_height - 1)
        x = tl.minimum(((pixel % width).to(tl.float32) * scale_x).to(tl.int32), label_width - 1)
    base = labels + image.to(tl.int64) * label_height * label_width
    label = tl.load(base + y * label_width + x, mask=inside, other=ignore_index).to(tl.int32)
    return tl.where(label == ignore_index, -1, tl.where(label < num_classes, label, -2))
