"""What mixed images go through after pasting: magnification, colour jitter, blur.

Images are [B, 3, H, W], normalised, channels last. Everything is decided on the host, so no step
waits for the device.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastass.pipelines.loaders.augment import color_matrix
from fastass.pipelines.loaders.normalization import Normalization

Box = tuple[int, int, int, int]  # top, left, height, width


def zoom_box(size: tuple[int, int], zoom: float, x: float, y: float) -> Box:
    """The region of an image of `size` (H, W) that is 1/zoom as large, placed by x, y in [0, 1)."""
    height, width = (max(1, round(side / zoom)) for side in size)
    return int(y * (size[0] - height + 1)), int(x * (size[1] - width + 1)), height, width


def magnify_images(images: Tensor, boxes: list[Box]) -> Tensor:
    """Each image's box, bilinearly resized to the size of the image."""
    size = (images.shape[2], images.shape[3])
    resized = torch.empty_like(images)
    for i, (top, left, height, width) in enumerate(boxes):
        region = images[i : i + 1, :, top : top + height, left : left + width]
        resized[i : i + 1] = F.interpolate(region, size, mode="bilinear", align_corners=False)
    return resized


def magnify_maps(maps: Tensor, boxes: list[Box]) -> Tensor:
    """The boxes of maps [B, H, W] of any dtype: each new pixel takes the one that it lies in."""
    height, width = maps.shape[1:]
    rows = np.stack(
        [top + (2 * np.arange(height) + 1) * h // (2 * height) for top, _, h, _ in boxes]
    )
    columns = np.stack(
        [left + (2 * np.arange(width) + 1) * w // (2 * width) for _, left, _, w in boxes]
    )
    image = torch.arange(len(maps), device=maps.device)[:, None, None]
    y, x = (to_device(index, maps.device) for index in (rows, columns))
    return maps[image, y[:, :, None], x[:, None, :]]


def color_maps(
    u: np.ndarray, strength: float, normalization: Normalization
) -> tuple[np.ndarray, np.ndarray]:
    """float32 matrices [B, 3, 3] and offsets [B, 3] of normalised pixels: x → matrix · x + offset.

    u: [B, 3] in [0, 1), of brightness, contrast and saturation; each factor is in 1 ± strength.
    """
    rgb = np.array(
        [color_matrix(b, c, s, hue=0.0) for b, c, s in 1 + strength * (2 * u - 1)]
    ).reshape(-1, 3, 4)
    matrix, offset = rgb[:, :, :3], rgb[:, :, 3]
    normalization = normalization.colors
    if normalization.order == "BGR":
        matrix, offset = matrix[:, ::-1, ::-1], offset[:, ::-1]
    mean, scale = np.array(normalization.mean), np.array(normalization.scale)
    # level = x / scale + mean
    offset = (matrix @ mean + offset - mean) * scale
    matrix = matrix / scale[None, None, :] * scale[None, :, None]
    return matrix.astype(np.float32), offset.astype(np.float32)


def recolor(images: Tensor, matrix: Tensor, offset: Tensor, normalization: Normalization) -> Tensor:
    """matrix · x + offset of the colours at each pixel, within the levels 0 to 255."""
    if images.shape[1] > 3:
        colors = recolor(images[:, :3], matrix, offset, normalization)
        mapped = torch.cat([colors, images[:, 3:]], 1)
        return mapped.contiguous(memory_format=torch.channels_last)
    normalization = normalization.colors
    batch, channels, height, width = images.shape
    flat = images.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    mapped = torch.baddbmm(offset[:, None, :], flat, matrix.transpose(1, 2))
    bounds = (
        [(level - m) * s for m, s in zip(normalization.mean, normalization.scale, strict=True)]
        for level in (0.0, 255.0)
    )
    low, high = (images.new_tensor(values) for values in bounds)
    mapped = torch.minimum(torch.maximum(mapped, low), high)
    return mapped.view(batch, height, width, channels).permute(0, 3, 1, 2)


def blur(images: Tensor, sigmas: list[float]) -> Tensor:
    """Gaussian blur of each image with its sigma in pixels; 0 leaves it as it is."""
    parts = [_blurred(images[i : i + 1], sigma) for i, sigma in enumerate(sigmas)]
    return torch.cat(parts) if any(sigmas) else images


def _blurred(image: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return image
    radius = min(math.ceil(3 * sigma), image.shape[2] - 1, image.shape[3] - 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    kernel = to_device(weights, image.device).to(image.dtype).expand(image.shape[1], 1, 1, -1)
    channels = image.shape[1]
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel, groups=channels)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=channels)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """On CUDA from pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
