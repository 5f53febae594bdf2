"""PNG files: 16-bit RGB is exact, and a header that claims too much is refused in little memory."""

import io
import mmap
import struct
import zlib

import numpy as np
import pytest
from dataset_files import png_bytes
from PIL import Image
from processes import growth_below

from fastass.pipelines.datasets.decode import decode_label, open_image
from fastass.pipelines.datasets.png import check_png, decode_rgb16
from fastass.pipelines.errors import DataError


def rgb16() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (17, 13, 3), np.uint16)


def test_16_bit_rgb_is_exact_for_every_filter() -> None:
    pixels = rgb16()
    data = png_bytes(pixels)
    info = check_png(data)
    assert (info.width, info.height, info.depth, info.colour) == (13, 17, 16, 2)
    np.testing.assert_array_equal(decode_rgb16(data, info), pixels)


def test_8_bit_is_refused_as_16_bit() -> None:
    data = png_bytes(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="not a 16-bit RGB"):
        decode_rgb16(data, check_png(data))


def test_every_truncation_is_seen() -> None:
    data = png_bytes(rgb16())
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"truncated|not a PNG"):
            check_png(data[:length])


def test_every_flipped_bit_is_seen() -> None:
    data = png_bytes(np.zeros((6, 6), np.uint8))
    for at in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(ValueError, match=r"truncated|not a PNG|checksum|no header"):
            check_png(bytes(flipped))


def claiming(width: int, height: int) -> bytes:
    """A PNG with a sound header of this size, and the pixels of one of 8×8."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize("size", [(20_000, 8_000), (1, 100_000_000), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_lies(size: tuple[int, int]) -> None:
    for read in (
        lambda: open_image(claiming(*size), "a.png"),
        lambda: decode_label(claiming(*size), "a.png"),
    ):
        with growth_below(), pytest.raises(DataError, match=r"^a\.png: "):
            read()


def test_the_measure_sees_an_allocation() -> None:
    def grow() -> None:
        block = mmap.mmap(-1, 64 << 20)  # from the system: malloc may have kept as much
        for _ in range(64):
            block.write(bytes(1 << 20))
        block.close()

    with pytest.raises(AssertionError, match="MiB for one file"), growth_below():
        grow()


def test_the_best_compression_is_accepted() -> None:
    """One colour is the smallest file of its size."""
    for mode, size in (("L", (4096, 4096)), ("RGB", (3000, 2000)), ("P", (5000, 3000))):
        file = io.BytesIO()
        Image.new(mode, size).save(file, "PNG", compress_level=9)
        assert open_image(file.getvalue(), "a.png").size == size
