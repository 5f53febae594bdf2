"""What Pillow does not do with PNG files: verify checksums and length, and decode 16-bit RGB.

Pillow skips the checksums of pixel chunks, so a flipped bit can silently change a label. It fills
up data that end between two rows. And it keeps only the high bytes of 16-bit RGB, which are all 0
in a SYNTHIA label.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # colour types of the PNG specification
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}
# Column and row of the first pixel of each pass of an interlaced file, and the steps to the next.
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
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


def last_row(image: Image.Image) -> np.ndarray:
    """Of an image as it is stored, before it is turned."""
    return np.asarray(image.crop((0, image.height - 1, image.width, image.height)))


def check_complete(data: bytes | memoryview, info: PngInfo, last: np.ndarray | None = None) -> None:
    """ValueError for compressed data that end properly, but before the last row.

    Decoders leave the rows that are missing 0. So there is nothing to count where the `last` row,
    as it was decoded, has anything else; None: not decoded yet.
    """
    if last is not None and last.any() and not info.interlaced:
        return
    needed, found = stream_size(info), 0
    inflater = zlib.decompressobj()
    for start, stop in info.pixels:
        rest: bytes | memoryview = memoryview(data)[start:stop]
        while len(rest) and not inflater.eof:
            found += len(inflater.decompress(rest, 1 << 20))
            rest = inflater.unconsumed_tail
    found += len(inflater.flush())
    if found < needed:
        raise ValueError(f"its data end early: {found} bytes for {needed} of pixels")


def stream_size(info: PngInfo) -> int:
    """Bytes of the pixels before compression: rows, each with the number of its filter."""
    bits = info.depth * CHANNELS.get(info.colour, 1)
    total = 0
    for x, y, step_x, step_y in ADAM7 if info.interlaced else ((0, 0, 1, 1),):
        width, height = -((x - info.width) // step_x), -((y - info.height) // step_y)
        if width > 0:
            total += height * (1 + -(-width * bits // 8))
    return total


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
    check_complete(data, info, pixels[-1])
    return pixels
