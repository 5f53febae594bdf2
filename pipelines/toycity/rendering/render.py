"""From fragments to a picture (colour, texture, shadow, sky) and its labels."""

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastass.pipelines.toycity.rendering.canvas import OVERSAMPLING, Canvas, View
from fastass.pipelines.toycity.rendering.materials import Look

TILE = 256  # pixels along the side of a noise tile
SKY = 23
PALE = np.array([236, 240, 246], np.float32)  # the sky at the horizon


class Picture(NamedTuple):
    """rgb float32 [H,W,3] 0–255; label uint8 [H,W] raw ids; instance uint16 and depth float32
    (metres) [H,W]."""

    rgb: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    depth: np.ndarray


@cache
def noise_tiles() -> np.ndarray:
    """Repeating textures, float32 [7, TILE, TILE], mean 0, std 1, in the order of materials."""
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
    bricks = (((y % 8) == 0) | (((x + 8 * (row % 2)) % 16) == 0)) * -2.0 + band(0.1, 0.5, 0) * 4
    planks = ((x % 16) < 2) * -2.0 + np.repeat(rng.standard_normal((1, 16)), 16, 1) * 0.6
    paving = (((y % 32) < 2) | ((x % 32) < 2)) * -2.0
    paving = paving + np.kron(rng.standard_normal((8, 8)), np.ones((32, 32))) * 0.4
    clouds = band(1 / TILE, 0.1, 1.7)
    planks = np.broadcast_to(planks, (TILE, TILE))
    tiles = np.stack([grain, leaves, stains, bricks, planks, paving, clouds])
    tiles -= tiles.mean((1, 2), keepdims=True)
    noise: np.ndarray = (tiles / tiles.std((1, 2), keepdims=True)).astype(np.float32)
    return noise


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


def _geometry(
    view: View, u: np.ndarray, v: np.ndarray, plane: np.ndarray, ground: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth in metres, metres of surface per pixel, and the surface's second coordinate (its depth
    if it lies flat, else its height in metres), each float32 [H,W]."""
    focal, rows = np.float32(view.focal), v - np.float32(view.horizon)
    inverse = np.clip(plane[..., 0] + plane[..., 1] * u, plane[..., 2], plane[..., 3])
    flat = focal * np.float32(view.camera_y) / np.maximum(rows, np.float32(0.5))
    depth = np.where(ground, np.minimum(flat, np.float32(400)), 1 / inverse)
    scale = depth / focal
    slant = np.where(ground, depth * scale / np.float32(view.camera_y), 0)
    step = np.maximum(np.maximum(scale, slant), np.abs(plane[..., 1]) * depth * depth * ~ground)
    return depth, step, np.where(ground, depth, rows * scale)


def render(
    canvas: Canvas, look: Look, distortion: float, shadows: float, rng: np.random.Generator
) -> Picture:
    """Draw the fragments. shadows: how much darker a ground shadow is, 0–1."""
    view, s = canvas.view, OVERSAMPLING
    table = canvas.fragments()
    index, u, v = lens(view.width, view.height, distortion)
    ids = canvas.ids()
    if distortion:
        ids = np.take(ids.ravel(), index)
    packed = np.zeros((len(table.colors), 4), np.uint8)
    packed[:, :3] = table.colors
    fine = np.take(packed.view(np.uint32).ravel(), ids)  # one 4-byte look-up per fragment pixel
    size = (view.width * s, view.height * s)
    small = Image.frombuffer("RGBX", size, fine, "raw", "RGBX", 0, 1).reduce(s).convert("RGB")
    ids = ids[::s, ::s]
    label, material, instance = table.label[ids], table.material[ids], table.instance[ids]

    sky, ground = label == SKY, look.ground[material]
    depth, step, along = _geometry(view, u, v, np.take(table.depth, ids, axis=0), ground)
    focal = np.float32(view.focal)
    frequency = look.frequency[material]
    step *= frequency
    across = (u - np.float32(view.center)) * (depth / focal)
    across += np.where(ground, np.float32(0), depth)  # walls along the street run in depth
    offset = rng.integers(0, TILE, 2)
    x = np.where(sky, u * np.float32(0.35), across * frequency).astype(np.int32)
    y = np.where(sky, v * np.float32(0.9), along * frequency).astype(np.int32)
    x += (7 * instance + offset[0]).astype(np.int32)
    y += (13 * instance + offset[1]).astype(np.int32)
    place = (look.tile[material].astype(np.int32) * TILE + (y & (TILE - 1))) * TILE
    grain = np.take(noise_tiles().ravel(), place + (x & (TILE - 1)))
    # a texture finer than the pixels averages out
    step[sky] = 0
    texture = 1 + look.amplitude[material] * grain / np.maximum(step * np.float32(0.5), 1)
    shade = canvas.shade()
    if distortion:
        shade = shade[v.astype(np.int32), u.astype(np.int32)]
    texture[ground & (shade > 127)] *= 1 - shadows
    rgb = np.asarray(small, np.float32) * texture[..., None]
    # the sky pales towards the horizon
    height = np.clip(v[sky] / view.horizon, 0, 1)[:, None]
    rgb[sky] += (PALE - rgb[sky]) * (0.6 * height**2)
    return Picture(rgb, label, instance, np.where(sky, np.float32(0), depth))
