"""Turns a picture into an image: a renderer's clean frame, or a photograph by a car's camera."""

import io
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from fastass.pipelines.toycity.rendering.render import Picture


def frame(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """A renderer's clean frame at some time of day and in some weather. uint8 [H,W,3]."""
    rgb = _toward(picture.rgb, (190, 210, 240), 1 - np.exp(-picture.depth / np.float32(600)))
    rgb = _saturate(rgb, float(rng.uniform(0.7, 1.05)))
    warm, exposure = float(rng.normal(0, 0.05)), float(rng.uniform(0.72, 1.25))
    rgb *= np.array([1 + warm, 1.0, 1 - warm], np.float32) * np.float32(exposure)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


@cache
def _vignette(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    factor: np.ndarray = (1 - 0.24 * (x**2 + y**2) / 2).astype(np.float32)[..., None]
    return factor


def _fringe(channel: Image.Image, zoom: float) -> Image.Image:
    """One colour magnified about the centre."""
    w, h = channel.size
    k = 1 / zoom
    move = (k, 0, (1 - k) * w / 2, 0, k, (1 - k) * h / 2)
    return channel.transform((w, h), Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)


def _blur(sigma: float) -> ImageFilter.Kernel:
    """A 3×3 Gaussian."""
    side = float(np.exp(-0.5 / sigma**2))
    row = np.array([side, 1, side])
    return ImageFilter.Kernel((3, 3), np.outer(row, row).ravel().tolist(), float(row.sum() ** 2))


def _toward(rgb: np.ndarray, color: tuple[int, int, int], part: np.ndarray) -> np.ndarray:
    """Mix a colour in; part [H,W] 0–1."""
    mixed: np.ndarray = rgb + (np.array(color, np.float32) - rgb) * part[..., None]
    return mixed


def _saturate(rgb: np.ndarray, factor: float) -> np.ndarray:
    """Colours moved away from grey (factor > 1) or towards it."""
    grey: np.ndarray = ((rgb[..., 0] + rgb[..., 1] + rgb[..., 2]) / 3)[..., None]
    moved: np.ndarray = grey + (rgb - grey) * np.float32(factor)
    return moved


def photograph(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """Haze, exposure, white balance, lens, sensor noise and JPEG. uint8 [H,W,3]."""
    height, width = picture.label.shape
    reach = np.float32(rng.uniform(130, 400))
    rgb = _toward(picture.rgb, (196, 198, 198), 1 - np.exp(-picture.depth / reach))
    rgb = _saturate(rgb, float(rng.uniform(0.75, 1.0)))
    warm = float(rng.normal(0, 0.04))
    exposure = float(rng.uniform(0.85, 1.2))
    rgb *= np.array([1.02 + warm, 1.0, 0.97 - warm], np.float32) * np.float32(exposure)
    rgb *= _vignette(width, height)
    image = Image.fromarray(np.clip(rgb + 0.5, 0, 255).astype(np.uint8))
    tone = (np.arange(256) / 255) ** rng.uniform(0.95, 1.2) * 255
    image = image.point(np.rint(tone).astype(int).tolist() * 3)
    image = image.filter(_blur(float(rng.uniform(0.5, 0.9))))
    red, green, blue = image.split()
    image = Image.merge("RGB", (_fringe(red, 1.0015), green, _fringe(blue, 0.9985)))
    rgb = np.asarray(image)
    # shot noise grows with the root of the signal
    sigma = rng.uniform(1.2, 3.2) * np.sqrt(0.3 + np.arange(256) / 255)
    noise = rng.standard_normal(rgb.shape, np.float32) * np.take(sigma.astype(np.float32), rgb)
    noise += rgb
    buffer = io.BytesIO()
    quality = int(rng.integers(55, 88))
    exposed = Image.fromarray(np.clip(noise + 0.5, 0, 255).astype(np.uint8))
    exposed.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))
