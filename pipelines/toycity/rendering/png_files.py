"""PNG files as the data sets' owners write them."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fastass.pipelines.datasets.classes import COLORS, GTA5, IGNORE

LEVEL = 1  # zlib; the noise of a photograph hardly packs tighter at a higher level


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    """uint8 [H,W,3] → 8-bit RGB PNG."""
    Image.fromarray(rgb).save(path, compress_level=LEVEL)


def write_grey(path: Path, values: np.ndarray) -> None:
    """uint8 [H,W] → 8-bit grey PNG whose values are label ids."""
    Image.fromarray(values).save(path, compress_level=LEVEL)


def write_palette(path: Path, values: np.ndarray) -> None:
    """uint8 [H,W] of GTA5 label ids → palette PNG whose indices are those ids."""
    palette = np.zeros((256, 3), np.uint8)
    for raw, train_id in GTA5.train_ids.items():
        palette[raw] = (20 + 4 * raw,) * 3 if train_id == IGNORE else COLORS[train_id]
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    image.save(path, compress_level=LEVEL)


def write_rgb16(path: Path, values: np.ndarray) -> None:
    """uint16 [H,W,3] → 16-bit RGB PNG, which Pillow cannot write."""
    height, width, _ = values.shape
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    unfiltered = np.hstack([np.zeros((height, 1), np.uint8), rows]).tobytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(unfiltered, LEVEL))
        + chunk(b"IEND", b"")
    )
