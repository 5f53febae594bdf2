import numpy as np
import pytest
from dataset_files import png_bytes

from fastass.pipelines.datasets.png import check_png, decode_rgb16


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
