"""What Pillow does not do with PNG files: verify chunk checksums, and decode 16-bit RGB.

Pillow skips the checksums of pixel chunks, so a flipped bit can silently change a label. And it
keeps only the high bytes of 16-bit RGB, which are all 0 in a SYNTHIA label.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # colour types of the PNG specification
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}
DEFLATE = 1032  # the most bytes that one compressed byte can stand for


@dataclass(frozen=True)
class PngInfo:
    """The header of a PNG file, and where its compressed pixels are.

    colour: colour type of the specification (0 grey, 2 RGB, 3 palette, 4 and 6 with alpha).
    pixels: (start, stop) byte ranges of the IDAT chunks.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    pixels: tuple[tuple[int, int], ...]


def check_png(data: bytes | memoryview) -> PngInfo:
    """Verify the checksums of all chunks of a PNG file.

    Raises ValueError with the reason: not a PNG, truncated, or a wrong checksum.
    """
    if data[:8] != SIGNATURE:
        raise ValueError("not a PNG file")
    view = memoryview(data)
    header: tuple[int, ...] | None = None
    pixels: list[tuple[int, int]] = []
    at = 8
    while True:
        if at + 12 > len(data):
            raise ValueError(f"truncated after {len(data)} bytes")
        (length,) = struct.unpack_from(">I", data, at)
        kind = bytes(view[at + 4 : at + 8])
        start, stop = at + 8, at + 8 + length
        if stop + 4 > len(data):
            raise ValueError(f"truncated in its {kind.decode('latin-1')!r} chunk")
        if zlib.crc32(view[at + 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            raise ValueError(f"wrong checksum in its {kind.decode('latin-1')!r} chunk")
        if kind == b"IHDR":
            if length != 13:
                raise ValueError(f"a header of {length} bytes")
            header = struct.unpack(">IIBBBBB", data[start:stop])
        elif kind == b"IDAT":
            pixels.append((start, stop))
        elif kind == b"IEND":
            break
        at = stop + 4
    if header is None or not pixels:
        raise ValueError("no header or no pixels")
    width, height, depth, colour, _, _, interlace = header
    return PngInfo(width, height, depth, colour, bool(interlace), tuple(pixels))


def check_claim(info: PngInfo) -> None:
    """ValueError for a header that claims more pixels than the compressed data can hold."""
    stored = sum(stop - start for start, stop in info.pixels)
    bits = info.depth * CHANNELS.get(info.colour, 1)
    if info.width * info.height * bits // 8 > DEFLATE * stored:
        raise ValueError(f"{info.width}x{info.height} pixels can't be in {stored} bytes")


def decode_rgb16(data: bytes, info: PngInfo) -> np.ndarray:
    """Decode a 16-bit RGB PNG to uint16 [H,W,3], exactly.

    Pillow's decoder runs twice: with big-endian samples it keeps the high bytes, with little-endian
    samples the low bytes. This needs no further dependency and is as fast as C.
    """
    if (info.depth, info.colour) != (16, RGB):
        raise ValueError("not a 16-bit RGB PNG")
    stream = b"".join(data[start:stop] for start, stop in info.pixels)
    size = (info.width, info.height)
    high, low = (
        np.asarray(Image.frombytes("RGB", size, stream, "zip", order, int(info.interlaced)))
        for order in ("RGB;16B", "RGB;16L")
    )
    pixels: np.ndarray = high.astype(np.uint16) << 8 | low
    return pixels
