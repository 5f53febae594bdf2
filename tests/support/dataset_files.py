"""Writes small data sets in exactly the format of their owners, and damages their bytes."""

import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fastass.pipelines.datasets.classes import COLORS, GTA5, IGNORE
from fastass.pipelines.datasets.files import File


def on_disk(file: File | None) -> Path:
    """The path of a sample's image or label, which must be there and in no archive."""
    assert isinstance(file, Path), file
    return file


def natural(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random RGB image, uint8 [H,W,3]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-6, 7, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def blocks(height: int, width: int, values: int, seed: int = 0) -> np.ndarray:
    """Random label blocks with values 0 … values−1, uint8 [H,W]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, values, (-(-height // 5), -(-width // 7)), np.uint8)
    return np.kron(small, np.ones((5, 7), np.uint8))[:height, :width]


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_palette(path: Path, ids: np.ndarray) -> None:
    """GTA5: an 8-bit palette PNG; its indices are ids, its palette the Cityscapes colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette([v for i in range(35) for v in id_color(i)])
    image.save(path)


def id_color(label_id: int) -> tuple[int, int, int]:
    """The colour of a label id as Cityscapes publishes it; of ignored ids mostly black."""
    train_id = GTA5.train_ids[label_id]
    if train_id != IGNORE:
        return COLORS[train_id]
    others = {
        5: (111, 74, 0),
        6: (81, 0, 81),
        9: (250, 170, 160),
        10: (230, 150, 140),
        14: (180, 165, 180),
        15: (150, 100, 100),
        16: (150, 120, 90),
        18: (153, 153, 153),
        29: (0, 0, 90),
        30: (0, 0, 110),
        34: (0, 0, 142),
    }
    return others.get(label_id, (0, 0, 0))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(pixels: np.ndarray, filters: bool = True) -> bytes:
    """Any uint8 or uint16 [H,W] or [H,W,3] as PNG, by the specification; rows cycle the filters."""
    height, width = pixels.shape[:2]
    wide = pixels.dtype == np.uint16
    rows = pixels.astype(">u2" if wide else np.uint8).view(np.uint8).reshape(height, -1).astype(int)
    step = pixels.reshape(height, width, -1).shape[2] * (2 if wide else 1)
    lines = []
    above = np.zeros(rows.shape[1], int)
    for y, row in enumerate(rows):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        far = [abs(guess - left), abs(guess - above), abs(guess - corner)]
        paeth = np.where(
            (far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], above, corner)
        )
        kind = y % 5 if filters else 0
        base = [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        lines.append(bytes([kind]) + ((row - base) % 256).astype(np.uint8).tobytes())
        above = row
    header = (width, height, 16 if wide else 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    stream = zlib.compress(b"".join(lines))
    half = len(stream) // 2  # two IDAT chunks, as real encoders write many
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
        + png_chunk(b"IDAT", stream[:half])
        + png_chunk(b"IDAT", stream[half:])
        + png_chunk(b"IEND", b"")
    )


def write_rgb16(path: Path, ids: np.ndarray) -> None:
    """SYNTHIA: a 16-bit RGB PNG, class ids in the first channel, instance ids in the second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*ids.shape, 3), np.uint16)
    pixels[..., 0] = ids
    pixels[..., 1] = np.arange(ids.size).reshape(ids.shape) % 4099
    path.write_bytes(png_bytes(pixels))


def gta5(root: Path, count: int = 3, size: tuple[int, int] = (48, 28)) -> Path:
    for i in range(1, count + 1):
        write_image(root / f"images/{i:05d}.png", natural(size[1], size[0], i))
        write_palette(root / f"labels/{i:05d}.png", blocks(size[1], size[0], 35, i))
    (root / "split.mat").write_bytes(b"MATLAB 5.0")  # the official archive ships one
    return root


def synthia(root: Path, count: int = 3, size: tuple[int, int] = (48, 28)) -> Path:
    for i in range(count):
        write_image(root / f"RGB/{i:07d}.png", natural(size[1], size[0], i))
        write_rgb16(root / f"GT/LABELS/{i:07d}.png", blocks(size[1], size[0], 23, i))
        write_image(root / f"GT/COLOR/{i:07d}.png", natural(size[1], size[0], i + 9))
    return root


def cityscapes(
    root: Path, count: int = 3, size: tuple[int, int] = (64, 32), split: str = "train"
) -> Path:
    for i in range(count):
        city = ("aachen", "bochum")[i % 2]
        name = f"{city}_{i:06d}_000019"
        write_image(
            root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png",
            natural(size[1], size[0], i),
        )
        truth = root / f"gtFine/{split}/{city}/{name}_gtFine_"
        write_image(Path(f"{truth}labelIds.png"), blocks(size[1], size[0], 34, i))
        write_image(Path(f"{truth}color.png"), natural(size[1], size[0], i + 9))
        Path(f"{truth}polygons.json").write_text("{}")
    return root


def folder(root: Path, count: int = 3, size: tuple[int, int] = (40, 24)) -> Path:
    for i in range(count):
        write_image(root / f"images/{i}.jpg", natural(size[1], size[0], i))
        write_image(root / f"labels/{i}.png", blocks(size[1], size[0], 3, i))
    (root / "classes.yaml").write_text("names: [road, car]\nids: [1, 2]\nignore: [0]\n")
    return root


def mutated(data: bytes, generator: random.Random) -> bytes:
    """`data` with 1 to 20 places changed: bits flipped, bytes replaced, cut out, or doubled."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 3, 20))):
        if not changed:
            break
        at, length = generator.randrange(len(changed)), generator.choice((1, 4, 40, 400))
        match generator.randrange(4):
            case 0:
                changed[at] ^= 1 << generator.randrange(8)
            case 1:
                changed[at : at + length] = generator.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
    return bytes(changed)
