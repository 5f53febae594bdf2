"""From fragments to a picture (colour, texture, shadow, sky) and its labels."""

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastass.pipelines.toycity.canvas import OVERSAMPLING, Canvas
from fastass.pipelines.toycity.look import Look

TILE = 256  # pixels along the side of a noise tile
SKY = 23


class Picture(NamedTuple):
    """rgb float32 [H,W,3] 0–255; label uint8 [H,W] raw ids; instance uint16 and depth float32
    (metres) [H,W]."""

    rgb: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    depth: np.ndarray


@cache
def noise_tiles() -> np.ndarray:
    """Repeating textures float32 [7, TILE, TILE], mean 0 and spread 1, in the order of `look`."""
    rng = np.random.default_rng(20190401)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE)))

    def band(low: float, high: float, power: float) -> np.ndarray:
        spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE)))
        keep = (frequency >= low) & (frequency <= high)
        spectrum *= keep / np.maximum(frequency, 1 / TILE) ** power
        return np.fft.ifft2(spectrum).real

    y, x = np.mgrid[:TILE, :TILE]
    grain = band(0.05, 0.5, 0.0)
    leaves = band(0.02, 0.25, 0.6)
    stains = band(1 / TILE, 0.2, 1.2)
    row = y // 8
    bricks = (((y % 8) == 0) | (((x + 8 * (row % 2)) % 16) == 0)) * -2.0 + band(0.1, 0.5, 0) * 8
    planks = ((x % 16) < 2) * -2.0 + np.repeat(rng.standard_normal((1, 16)), 16, 1) * 0.6
    paving = (((y % 32) < 2) | ((x % 32) < 2)) * -2.0
    paving = paving + np.kron(rng.standard_normal((8, 8)), np.ones((32, 32))) * 0.4
    clouds = band(1 / TILE, 0.1, 1.7)
    planks = np.broadcast_to(planks, (TILE, TILE))
    tiles = np.stack([grain, leaves, stains, bricks, planks, paving, clouds])
    tiles -= tiles.mean((1, 2), keepdims=True)
    return (tiles / tiles.std((1, 2), keepdims=True)).astype(np.float32)


@cache
def lens(width: int, height: int, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Barrel distortion by nearest fragment: where each fragment pixel comes from.

    Returns the flat source index int32 [H·s, W·s] and the source (column, row) float32 [H,W] of
    each image pixel. Corners stay, the centre is magnified by 1 / (1 − strength).
    """
    s = OVERSAMPLING
    rows, cols = np.mgrid[: height * s, : width * s].astype(np.float32)
    cx, cy = (width * s - 1) / 2, (height * s - 1) / 2
    dx, dy = cols - cx, rows - cy
    k = 1 - strength + strength * (dx**2 + dy**2) / (cx**2 + cy**2)
    u = np.clip(np.rint(cx + dx * k), 0, width * s - 1).astype(np.int32)
    v = np.clip(np.rint(cy + dy * k), 0, height * s - 1).astype(np.int32)
    return (
        v * (width * s) + u,
        (u[::s, ::s] / s).astype(np.float32),
        (v[::s, ::s] / s).astype(np.float32),
    )


def render(
    canvas: Canvas, look: Look, distortion: float, shadows: float, rng: np.random.Generator
) -> Picture:
    """Draw the fragments; `shadows` is how much a ground shadow takes away, 0–1."""
    view, s = canvas.view, OVERSAMPLING
    labels, materials, depths, instances, colors = canvas.tables()
    index, u, v = lens(view.width, view.height, distortion)
    ids = canvas.ids()
    if distortion:
        ids = ids.ravel()[index]
    fine = Image.fromarray(colors[ids])
    rgb = np.asarray(fine.reduce(s), np.float32)
    ids = ids[::s, ::s]
    label, material = labels[ids], materials[ids]

    ground = look.ground[material]
    below = np.maximum(v - view.horizon, 0.5)
    flat = view.focal * view.camera_y / below
    depth = np.where(ground, np.minimum(flat, 400), depths[ids])
    across = (u - view.center) * (depth / view.focal)
    along = np.where(ground, depth, (v - view.horizon) * (depth / view.focal))
    frequency = look.frequency[material]
    step = frequency * np.where(
        ground, depth * depth / (view.focal * view.camera_y), depth / view.focal
    )
    sky = label == SKY
    offset = rng.integers(0, TILE, 2)
    x = (
        np.where(sky, u * 0.35, across * frequency + 7 * instances[ids]).astype(np.int32)
        + offset[0]
    )
    y = np.where(sky, v * 0.9, along * frequency + 13 * instances[ids]).astype(np.int32) + offset[1]
    grain = noise_tiles()[look.tile[material], y & (TILE - 1), x & (TILE - 1)]
    # a texture finer than the pixels averages out
    texture = 1 + look.amplitude[material] * grain / np.maximum(1, np.where(sky, 1, step * 0.5))
    shade = canvas.shade()
    if distortion:
        shade = shade[v.astype(np.int32), u.astype(np.int32)]
    texture *= 1 - shadows * ground * (shade > 127)
    rgb = rgb * texture[..., None]
    # the sky pales towards the horizon
    pale = np.where(sky, np.clip(v / view.horizon, 0, 1) ** 2 * 0.6, 0)[..., None]
    rgb += (np.array([236, 240, 246], np.float32) - rgb) * pale
    return Picture(rgb, label, instances[ids], np.where(sky, 0, depth).astype(np.float32))
