"""A small file that claims to be a large image takes no more memory than it honestly needs."""

import io
import struct
import zlib

import numpy as np
import pytest
from memory_growth import growth_below
from PIL import Image

from fastass.pipelines.datasets.decode import decode_label, open_image
from fastass.pipelines.errors import DataError


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
    with pytest.raises(AssertionError, match="MiB for one file"), growth_below():
        np.ones(64 << 20, np.uint8)


def test_the_best_compression_is_accepted() -> None:
    """One colour is the smallest file of its size."""
    for mode, size in (("L", (4096, 4096)), ("RGB", (3000, 2000)), ("P", (5000, 3000))):
        file = io.BytesIO()
        Image.new(mode, size).save(file, "PNG", compress_level=9)
        assert open_image(file.getvalue(), "a.png").size == size
