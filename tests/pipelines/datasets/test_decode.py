import io
import struct
from pathlib import Path
from typing import Any

import dataset_files as files
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from fastass.pipelines.datasets.bands import levels_of
from fastass.pipelines.datasets.classes import IGNORE, NAMES, SYNTHIA_16
from fastass.pipelines.datasets.decode import (
    decode_label,
    open_channels,
    open_image,
    read_image,
    read_label,
)
from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.sample_reader import open_reader


def first(root: Path) -> tuple[Dataset, np.ndarray, np.ndarray]:
    data = open_dataset(root)
    return data, read_image(data.samples[0]), read_label(data, data.samples[0])


def test_gta5_reads_indices_not_luminance(tmp_path: Path) -> None:
    _, image, label = first(files.gta5(tmp_path))
    np.testing.assert_array_equal(image, files.natural(28, 48, 1))
    ids = files.blocks(28, 48, 35, 1)
    assert label.dtype == np.uint8
    for raw, name in ((7, "road"), (26, "car"), (33, "bicycle")):
        assert (label[ids == raw] == NAMES.index(name)).all()
    assert (label[(ids == 0) | (ids == 34)] == IGNORE).all()


def test_synthia_reads_the_first_of_16_bit_channels(tmp_path: Path) -> None:
    data, _, label = first(files.synthia(tmp_path))
    ids = files.blocks(28, 48, 23, 0)
    assert (label[ids == 3] == NAMES.index("road")).all()
    assert (label[ids == 13] == IGNORE).all()
    fewer = data.with_classes(SYNTHIA_16)
    label = read_label(fewer, fewer.samples[0])
    assert (label[ids == 12] == SYNTHIA_16.index("motorcycle")).all()
    assert (label[ids == 16] == IGNORE).all()  # terrain


def test_cityscapes_and_folder(tmp_path: Path) -> None:
    _, _, label = first(files.cityscapes(tmp_path / "c"))
    ids = files.blocks(32, 64, 34, 0)
    assert (label[ids == 24] == NAMES.index("person")).all()
    _, image, label = first(files.folder(tmp_path / "f"))
    assert image.shape == (24, 40, 3)
    np.testing.assert_array_equal(
        label, np.array([IGNORE, 0, 1], np.uint8)[files.blocks(24, 40, 3, 0)]
    )


def test_16_bit_grey_ids(tmp_path: Path) -> None:
    root = files.folder(tmp_path, 1)
    (root / "classes.yaml").write_text("names: [road]\nids: [1000]\nignore: [7]\n")
    ids = np.full((24, 40), 7, np.uint16)
    ids[3] = 1000
    files.write_image(root / "labels/0.png", ids)
    _, _, label = first(root)
    np.testing.assert_array_equal(label == 0, ids == 1000)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_image_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    root = files.gta5(tmp_path, 1)
    path = root / "images/00001.png"
    with Image.open(path) as image:
        image.convert(mode).save(path)
    assert read_image(open_dataset(root).samples[0]).shape == (28, 48, 3)


def test_16_bit_grey_is_scaled_not_cut_off(tmp_path: Path) -> None:
    root = files.folder(tmp_path, 1)
    levels = np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 68
    (root / "images/0.jpg").unlink()
    (root / "images/0.png").write_bytes(files.png_bytes(levels))
    pixels = read_image(open_dataset(root).samples[0])
    np.testing.assert_array_equal(pixels, np.rint(levels / 257).repeat(3).reshape(24, 40, 3))


def test_colour_label_is_refused_by_name(tmp_path: Path) -> None:
    root = files.gta5(tmp_path, 1)
    files.write_image(root / "labels/00001.png", files.natural(28, 48))
    with pytest.raises(DataError, match=r"labels/00001.png: an RGB colour image of 8 bits, not"):
        first(root)


def test_a_turned_label_is_refused(tmp_path: Path) -> None:
    """A tool that kept the photograph's EXIF data, whose tag it obeyed or not."""
    root = files.gta5(tmp_path, 1)
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees: the size is right
    with Image.open(root / "labels/00001.png") as label:
        label.save(root / "labels/00001.png", exif=exif)
    with pytest.raises(DataError, match=r"labels/00001.png: has EXIF orientation 3, and its image"):
        first(root)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (np.full((8, 9), 0.5, np.float32), "floating-point values"),
        (np.full((8, 9), 70_000, np.int32), "beyond 16 bits"),
        (np.full((8, 9), -1, np.int32), "beyond 16 bits"),
    ],
)
def test_levels_of_unknown_range_are_refused(levels: np.ndarray, message: str) -> None:
    """Pillow clips them at 0 and 255: a picture that is all black or all white."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "TIFF")
    with pytest.raises(DataError, match=rf"x.tiff: has .*{message}"):
        open_image(file.getvalue(), "x.tiff")


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_of_both_byte_orders(order: str) -> None:
    levels = np.linspace(0, 65535, 72).reshape(8, 9).round().astype(f"{order}u2")
    mode = "I;16" if order == "<" else "I;16B"
    file = io.BytesIO()
    Image.frombytes(mode, (9, 8), levels.tobytes()).save(file, "TIFF")
    found = np.asarray(open_image(file.getvalue(), "x.tiff"))
    np.testing.assert_array_equal(found, np.rint(levels / 257)[..., None].repeat(3, axis=2))


def test_stretched_grey_is_refused(tmp_path: Path) -> None:
    root = files.gta5(tmp_path, 1)
    Image.new("1", (48, 28)).save(root / "labels/00001.png")
    with pytest.raises(DataError, match="1-bit grey"):
        first(root)


@pytest.mark.parametrize(("layout", "value"), [("gta5", 35), ("synthia", 23), ("synthia", 259)])
def test_value_outside_the_table(tmp_path: Path, layout: str, value: int) -> None:
    root = getattr(files, layout)(tmp_path, 1)
    path = next((root / ("labels" if layout == "gta5" else "GT/LABELS")).iterdir())
    ids = np.full((28, 48), value)
    if layout == "gta5":
        files.write_image(path, ids.astype(np.uint8))
    else:
        files.write_rgb16(path, ids)
    with pytest.raises(
        DataError, match=f"{path.name}: label value {value} is outside the {layout}"
    ):
        first(root)


def test_different_sizes(tmp_path: Path) -> None:
    root = files.gta5(tmp_path, 1)
    files.write_palette(root / "labels/00001.png", files.blocks(28, 47, 35))
    with pytest.raises(DataError, match=r"image is 48x28 but its label .* is 47x28"):
        first(root)
    data = open_dataset(root)
    with pytest.raises(DataError, match="image is 48x28"):
        read_label(data, data.samples[0], (48, 28))


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_file_is_named(tmp_path: Path, kind: str, damage: str) -> None:
    root = files.gta5(tmp_path, 1)
    path = root / kind / "00001.png"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-100:]
    elif damage == "flipped":
        content[len(content) // 2] ^= 4
    elif damage == "empty":
        content.clear()
    else:
        content[:] = b"404 not found"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{kind}/00001.png: damaged image file: ") as error:
        first(root)
    assert "\n" not in str(error.value)


def test_truncated_jpeg_is_named(tmp_path: Path) -> None:
    root = files.folder(tmp_path, 1)
    path = root / "images/0.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"images/0.jpg: damaged image file: "):
        first(root)


def test_file_that_vanished(tmp_path: Path) -> None:
    root = files.gta5(tmp_path, 1)
    data = open_dataset(root)
    files.on_disk(data.samples[0].image).unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_image(data.samples[0])


def tiff(pixels: np.ndarray | Image.Image, **tags: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "TIFF", **tags)
    return file.getvalue()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_a_folder_of_tiff_files(tmp_path: Path, compression: str) -> None:
    pixels, ids = files.natural(24, 40), files.blocks(24, 40, 3)
    for folder, values in (("images", pixels), ("labels", ids)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / f"a.{'tif' if folder == 'labels' else 'TIFF'}"
        file.write_bytes(tiff(values, compression=compression))
    (tmp_path / "classes.yaml").write_text("names: [a, b, c]")
    data, image, label = first(tmp_path)
    np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(label, ids)
    encoded = open_reader(data).encoded(0)  # what DALI decodes
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded.tobytes()))), pixels)


def test_tiff_pixels_of_other_kinds() -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (6, 8), dtype=np.uint16)
    grey = np.asarray(open_image(tiff(deep), "x.tif"))
    assert np.abs(grey[..., 0] - deep / 257).max() <= 0.5
    four = rng.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    np.testing.assert_array_equal(levels_of(open_channels(tiff(four), 4, "x.tif")), four)
    whole = deep.astype(np.int32)
    for wide in (deep.astype(np.float32), -whole, whole * 9):
        with pytest.raises(
            DataError, match=r"x\.tif: has (floating-point values|grey values beyond 16 bits)"
        ):
            open_image(tiff(wide), "x.tif")


def test_tiff_labels() -> None:
    ids = files.blocks(6, 8, 30)
    palette = Image.fromarray(ids)
    palette.putpalette(bytes(range(256)) * 3)
    deep = ids.astype(np.uint16) * 300
    for image, values in ((palette, ids), (deep, deep)):
        np.testing.assert_array_equal(decode_label(tiff(image), "x.tif"), values)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((6, 8, 3), np.uint8), "a TIFF of mode RGB, not a label"),
        (np.zeros((6, 8), bool), "a TIFF of mode 1, not a label"),
        (np.zeros((6, 8), np.float32), "a TIFF of mode F, not a label"),
    ],
)
def test_tiff_files_that_are_no_labels(image: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=rf"x\.tif: {words}"):
        decode_label(tiff(image), "x.tif")


def test_tiff_labels_that_pillow_would_change() -> None:
    ids = files.blocks(6, 8, 30)
    with pytest.raises(DataError, match="where 0 is black"):  # Pillow inverts it
        decode_label(_with_tag(tiff(ids), 262, 0), "x.tif")
    turned = TiffImagePlugin.ImageFileDirectory_v2()
    turned[274] = 6
    with pytest.raises(DataError, match="has EXIF orientation 6, and its image may be"):
        decode_label(tiff(ids, tiffinfo=turned), "x.tif")


def test_tiff_labels_of_lossy_compression() -> None:
    with pytest.raises(DataError, match=r"x\.tif: a label in a TIFF is uncompressed, or"):
        decode_label(tiff(files.blocks(16, 16, 30), compression="jpeg"), "x.tif")


def test_a_tiff_that_claims_more_than_it_holds() -> None:
    data = _with_tag(tiff(files.blocks(6, 8, 30)), 256, 60_000, "L")  # its width
    for read in (decode_label, open_image):
        with pytest.raises(DataError, match="claims 60000x6 pixels, more than its data can hold"):
            read(data, "x.tif")


def _with_tag(data: bytes, tag: int, value: int, kind: str = "H") -> bytes:
    """The little-endian file with another value of a tag. kind: H, of two bytes, or L, of four."""
    at = data.index(struct.pack("<HHI", tag, 3 if kind == "H" else 4, 1)) + 8
    changed = struct.pack(f"<{kind}", value)
    return data[:at] + changed + data[at + len(changed) :]
