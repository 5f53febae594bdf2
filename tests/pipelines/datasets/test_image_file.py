"""Images that are stored turned (EXIF), and images that are larger than memory.

Where an orientation matters: `predict` and `Segmenter.predict` (read_image, open_image), `pack`
(read_image), both loaders (FileReader: image, size, the bytes that DALI decodes), labels. Where an
image file is opened: decode.py (image, label, size), 16-bit labels, packed records, the class
statistics of ToyCity; all go through image_file.py. ToyCity's camera opens only its own JPEG.
"""

import io
import struct
import zlib
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
from packed_files import SIZE, packed
from PIL import Image

from fastass.pipelines.datasets import image_file
from fastass.pipelines.datasets.decode import image_size, open_image, read_image, read_label
from fastass.pipelines.datasets.image_file import DEFAULT_LIMIT, LIMIT, SUFFIXES, pixel_limit
from fastass.pipelines.datasets.layouts import Dataset, Sample, open_dataset, open_images
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.open_loader import LOADERS, open_loader
from fastass.pipelines.loaders.sample_reader import FileReader
from fastass.pipelines.loaders.spec import StreamSpec
from fastass.pipelines.packed.dataset import open_packed
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.toycity import class_shares


def turned(pixels: np.ndarray, code: int) -> np.ndarray:
    """What a camera stores of an upright image for an EXIF orientation, by the specification."""
    flip, flop = np.flipud, np.fliplr
    transposed = pixels.swapaxes(0, 1)
    return {
        1: pixels,
        2: flop(pixels),
        3: flip(flop(pixels)),
        4: flip(pixels),
        5: transposed,
        6: flip(transposed),
        7: flip(flop(transposed)),
        8: flop(transposed),
    }[code]


def write_turned(path: Path, pixels: np.ndarray, code: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = code
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.ascontiguousarray(turned(pixels, code)))
    if path.suffix == ".png":
        image.save(path, exif=exif)
    elif path.suffix == ".webp":
        image.save(path, exif=exif, lossless=True)
    else:
        image.save(path, exif=exif, quality=100, subsampling=0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("code", range(1, 9))
def test_an_image_without_label_is_turned(tmp_path: Path, code: int, suffix: str) -> None:
    pixels = files.natural(32, 48)
    write_turned(tmp_path / f"a{suffix}", pixels, code)
    (sample,) = open_images(tmp_path).samples
    found = read_image(sample)
    assert found.shape == pixels.shape
    # JPEG alone loses something; a wrong turn is off by tens of levels.
    assert np.abs(found.astype(int) - pixels).mean() <= (2 if suffix == ".jpg" else 0)
    assert image_size(sample.image) == (48, 32)


def test_exif_after_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    pixels = files.natural(32, 48)
    write_turned(tmp_path / "a.png", pixels, 6)
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    (length,) = struct.unpack_from(">I", data, at)
    chunk, end = data[at : at + length + 12], data[-12:]
    moved = data[:at] + data[at + length + 12 : -12] + chunk + end
    (tmp_path / "a.png").write_bytes(moved)
    np.testing.assert_array_equal(read_image(open_images(tmp_path).samples[0]), pixels)
    assert image_size(tmp_path / "a.png") == (48, 32)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as the first image opened does
def test_damaged_exif_is_ignored() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(file.getvalue(), "a.jpg").size == (8, 6)


def photographs(root: Path, labels: bool, suffix: str = ".jpg") -> Dataset:
    """One photograph stored turned, with or without its label."""
    files.folder(root, 1)
    (root / "images/0.jpg").unlink()
    write_turned(root / f"images/0{suffix}", files.natural(24, 40), 6)
    if not labels:
        (root / "labels/0.png").unlink()
    return open_dataset(root, labels="required" if labels else "optional")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_labelled_image_that_is_turned_is_an_error(tmp_path: Path, suffix: str) -> None:
    data = photographs(tmp_path / "data", True, suffix)
    reader = FileReader(data)
    for read in (
        lambda: read_image(data.samples[0]),
        lambda: reader.image(0),
        lambda: reader.encoded(0),
    ):
        with pytest.raises(DataError, match=rf"0\{suffix}: has EXIF orientation 6"):
            read()
    report = pack(data, tmp_path / "out", (20, 12), workers=1)
    assert not report.complete
    assert "has EXIF orientation 6" in report.bad[0].reason


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_loaders_turn_images_without_label(tmp_path: Path, loader: str, suffix: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    data = photographs(tmp_path, False, suffix)
    spec = StreamSpec(data, 1, (40, 24), with_labels=False)
    with open_loader(loader, {"unlabelled": spec}, 0) as batches:
        batch = next(batches.batches()).unlabelled
    assert batch is not None
    mean = np.array([104.00698793, 116.66876762, 122.67891434])
    found = (batch.images[0].permute(1, 2, 0).numpy() + mean)[..., ::-1]
    wanted = read_image(data.samples[0])
    off = min(
        np.abs(found - wanted).max(), np.abs(found - wanted[:, ::-1]).max()
    )  # may be mirrored
    assert off <= 2


def test_pack_turns_images_without_label(tmp_path: Path) -> None:
    data = photographs(tmp_path / "data", False)
    pack(data, tmp_path / "out", (40, 24), workers=1, image="png")
    np.testing.assert_array_equal(
        open_packed(tmp_path / "out").image(0), read_image(data.samples[0])
    )


def bomb(width: int = 20_000, height: int = 20_000, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of a few hundred bytes that claims many pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(files.png_chunk(*chunk) for chunk in chunks)


MESSAGE = (
    rf"20000x20000 is more than {DEFAULT_LIMIT} pixels; .*{LIMIT}|"
    rf"400000000 pixels are more than {DEFAULT_LIMIT} p"
)


def test_a_bomb_is_one_line(tmp_path: Path) -> None:
    image = tmp_path / "images/00001.png"
    files.gta5(tmp_path, 1)
    label = tmp_path / "labels/00001.png"
    good = image.read_bytes(), label.read_bytes()
    data = open_dataset(tmp_path)
    reader = FileReader(data)
    image.write_bytes(bomb())
    for read in (
        lambda: read_image(data.samples[0]),
        lambda: image_size(image),
        lambda: reader.encoded(0),
        lambda: reader.size(0),
        lambda: reader.image(0),
    ):
        with pytest.raises(DataError, match=MESSAGE):
            read()
    image.write_bytes(good[0])
    for colour, depth in ((0, 8), (3, 8), (2, 16)):
        label.write_bytes(bomb(depth=depth, colour=colour))
        sixteen = Dataset("synthia", tmp_path, "train", data.classes, data.samples, rgb16=True)
        with pytest.raises(DataError, match=MESSAGE):
            read_label(sixteen, data.samples[0])
        with pytest.raises(DataError, match=MESSAGE):
            class_shares_of(label.read_bytes(), tmp_path / "city")


def class_shares_of(label: bytes, city: Path) -> None:
    path = city / "gta5/labels/00001.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(label)
    class_shares(city, "source")


def test_a_bomb_in_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_packed(packed(tmp_path, 1))
    monkeypatch.setattr(image_file, "pixel_limit", lambda: SIZE[0] * SIZE[1] - 1)
    with pytest.raises(DataError, match=r"shard-00000.tar: record .*: 32x20 is more than"):
        data.image(0)


def test_the_limit_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just above the limit, just at it, and what remains is an ordinary damaged file."""
    sample = Sample("a", tmp_path / "a.png", None)
    files.on_disk(sample.image).write_bytes(bomb(300, 200))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # restored afterwards
    for limit, message in ((59_999, "is more than 59999 pixels"), (60_000, "damaged image file")):
        monkeypatch.setenv(LIMIT, str(limit))
        pixel_limit.cache_clear()
        with pytest.raises(DataError, match=message):
            read_image(sample)
    monkeypatch.setenv(LIMIT, "many")
    pixel_limit.cache_clear()
    with pytest.raises(DataError, match=f"{LIMIT}=many: must be a number of pixels"):
        read_image(sample)
    pixel_limit.cache_clear()


def test_every_listed_format_is_read(tmp_path: Path) -> None:
    """Each suffix that `predict` takes; the formats that only another library writes are left."""
    known = Image.registered_extensions()
    pixels = files.natural(16, 16)
    for suffix in SUFFIXES:
        if known[suffix] not in Image.SAVE or suffix == ".sgi":
            continue
        path = tmp_path / suffix[1:] / f"a{suffix}"
        path.parent.mkdir()
        picture = Image.fromarray(pixels)
        (picture.convert("L") if suffix == ".pgm" else picture).save(path)
        assert read_image(open_images(path).samples[0]).shape == (16, 16, 3), suffix
    assert len(list(tmp_path.iterdir())) > 15


def test_formats_that_run_programs_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match=r"a\.png: damaged image file: unknown image format"):
        read_image(open_images(tmp_path).samples[0])
