"""PNG files: 16-bit RGB is exact, and a header that claims too much is refused in little memory."""

import io
import mmap
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from dataset_files import png_bytes, png_chunk
from PIL import Image
from processes import growth_below

from fastass.pipelines.datasets.classes import CITYSCAPES
from fastass.pipelines.datasets.decode import decode_label, open_image
from fastass.pipelines.datasets.layouts import Dataset, Sample
from fastass.pipelines.datasets.png import ADAM7, check_complete, check_png, decode_rgb16
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.sample_reader import FileReader


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


KINDS = {"grey": (8, 0), "grey16": (16, 0), "grey1": (1, 0), "palette": (8, 3), "rgb": (8, 2),
         "rgb16": (16, 2), "grey and alpha": (8, 4), "rgba": (8, 6)}  # fmt: skip
BITS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def ending_early(kind: str, lost: int, *, interlaced: bool, fill: int = 255) -> bytes:
    """A 9×7 PNG with sound checksums and a sound zlib stream that lacks its last rows."""
    (depth, colour), rows = KINDS[kind], list[bytes]()
    for x, y, step_x, step_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, height = len(range(x, 9, step_x)), len(range(y, 7, step_y))
        length = -(-columns * depth * BITS[colour] // 8)
        rows += [b"\0" + bytes([fill]) * length] * (height if columns else 0)
    header = struct.pack(">IIBBBBB", 9, 7, depth, colour, 0, 0, interlaced)
    palette = png_chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    stream = zlib.compress(b"".join(rows[: len(rows) - lost]))
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + palette
        + png_chunk(b"IDAT", stream[:9]) + png_chunk(b"IDAT", stream[9:]) + png_chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_data_that_end_between_two_rows(kind: str, interlaced: bool, tmp_path: Path) -> None:
    """Pillow and DALI make the rest 0. Read as image, as label, and as bytes for DALI."""
    label = KINDS[kind] in ((8, 0), (16, 0), (8, 3))
    path = tmp_path / "a.png"
    sets = Dataset("folder", tmp_path, "train", CITYSCAPES, (Sample("a", path, None),))
    for fill in (255, 0):  # a last row of zeros may be right
        whole = ending_early(kind, 0, interlaced=interlaced, fill=fill)
        path.write_bytes(whole)
        assert open_image(whole, "a.png").size == (9, 7)
        assert FileReader(sets).encoded(0).tobytes() == whole
        if label:
            assert decode_label(whole, "a.png").shape == (7, 9)
    for lost in (1, 2, 5):
        short = ending_early(kind, lost, interlaced=interlaced)
        path.write_bytes(short)
        with pytest.raises(DataError, match=r"a\.png: damaged image file: (its data end|.*trunc)"):
            open_image(short, "a.png")
        with pytest.raises(DataError, match=r"a\.png: damaged image file: its data end early"):
            FileReader(sets).encoded(0)
        if label:
            with pytest.raises(DataError, match=r"its data end early|truncated"):
                decode_label(short, "a.png")
        if kind == "rgb16":
            with pytest.raises(DataError, match="its data end early"):
                decode_label(short, "a.png", rgb16=True)


def test_large_data_are_counted_in_little_memory() -> None:
    file = io.BytesIO()
    Image.new("L", (8000, 8000)).save(file, "PNG")
    data = file.getvalue()
    with growth_below():
        check_complete(data, check_png(data))
