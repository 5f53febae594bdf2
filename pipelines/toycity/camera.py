"""The two ways to take the picture: a renderer's frame, and a car's camera."""

import io
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from fastass.pipelines.toycity.render import Picture


def frame(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """A clean, saturated frame: a little distance fog and contrast. uint8 [H,W,3]."""
    fog = 1 - np.exp(-picture.depth / 600.0)[..., None]
    rgb = picture.rgb + (np.array([190, 210, 240], np.float32) - picture.rgb) * fog
    rgb = 128 + (rgb - 128) * float(rng.uniform(1.0, 1.1))
    return np.clip(rgb * float(rng.uniform(0.94, 1.06)) + 0.5, 0, 255).astype(np.uint8)


@cache
def _vignette(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (1 - 0.24 * (x**2 + y**2) / 2).astype(np.float32)[..., None]


def _fringe(channel: Image.Image, zoom: float) -> Image.Image:
    """One colour magnified about the centre."""
    w, h = channel.size
    k = 1 / zoom
    move = (k, 0, (1 - k) * w / 2, 0, k, (1 - k) * h / 2)
    return channel.transform((w, h), Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)


def photograph(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """Haze, exposure, white balance, lens, sensor noise and JPEG. uint8 [H,W,3]."""
    height, width = picture.label.shape
    reach = float(rng.uniform(90, 320))
    haze = 1 - np.exp(-picture.depth / reach)[..., None]
    rgb = picture.rgb + (np.array([196, 198, 198], np.float32) - picture.rgb) * haze
    grey = rgb.mean(-1, keepdims=True)
    rgb = grey + (rgb - grey) * float(rng.uniform(0.75, 1.0))
    warm = float(rng.normal(0, 0.04))
    balance = np.array([1.02 + warm, 1.0, 0.97 - warm], np.float32) * float(rng.uniform(0.78, 1.08))
    rgb = rgb * balance * _vignette(width, height)
    rgb = 255 * np.clip(rgb / 255, 0, 1) ** np.float32(rng.uniform(0.95, 1.2))
    image = Image.fromarray((rgb + 0.5).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 0.9))))
    red, green, blue = image.split()
    image = Image.merge("RGB", (_fringe(red, 1.0015), green, _fringe(blue, 0.9985)))
    rgb = np.asarray(image, np.float32)
    sigma = float(rng.uniform(1.5, 4.0)) * np.sqrt(0.3 + rgb / 255)
    rgb = rgb + sigma * rng.standard_normal(rgb.shape, np.float32)
    buffer = io.BytesIO()
    quality = int(rng.integers(55, 88))
    Image.fromarray(np.clip(rgb + 0.5, 0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=quality
    )
    return np.asarray(Image.open(buffer).convert("RGB"))
