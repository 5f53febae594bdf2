"""Readers of data sets on damaged files: one line, soon, in little memory, and never another error.

All readers of pipelines/datasets: images of each format, labels (palette, grey, 16-bit, TIFF), zip
archives, class files; packed directories are tried in tests/pipelines/packed/test_hostile_files.py.
"""

import io
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
from dataset_files import mutated
from PIL import Image
from processes import growth_below

from fastass.pipelines.datasets import zip_files
from fastass.pipelines.datasets.class_file import read_class_file
from fastass.pipelines.datasets.decode import decode_label, open_image, read_image
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.datasets.palette import check_palette
from fastass.pipelines.errors import LONGEST, DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as the first image opened does

SEED = 20_240_117
LIMIT = 10.0  # seconds for one file


def encoded(format: str) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    Image.fromarray(files.natural(32, 48)).save(file, format, **options)
    return file.getvalue()


def label(kind: str, tmp_path: Path) -> bytes:
    path = tmp_path / f"label.{'tif' if kind.startswith('tiff') else 'png'}"
    ids = files.blocks(32, 48, 35)
    if kind == "palette":
        files.write_palette(path, ids)
    elif kind == "rgb16":
        files.write_rgb16(path, ids)
    else:
        files.write_image(path, ids.astype(np.uint16 if kind.endswith("16") else np.uint8))
    return path.read_bytes()


def archive(tmp_path: Path) -> bytes:
    root = files.gta5(tmp_path / "gta5", 2)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(root.rglob("0*.png")):
            target.write(path, path.relative_to(root))
    return file.getvalue()


def read_archive(path: Path) -> None:
    zip_files._open.cache_clear()
    for sample in open_dataset(path).samples:
        read_image(sample)


CLASSES = (
    b"names: [road, car]\nids: [7, [24, '26-28']]\ncolors: [[1, 2, 3], [4, 5, 6]]\n"
    b"ignore: [0, '1-6']\nimage_suffix: _img\nlabel_suffix: _ids\nsplits: false\n"
)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA", "JPEG2000", "AVIF", "QOI")
LABELS = ("palette", "grey", "grey16", "rgb16", "tiff", "tiff16")


def case(name: str, tmp_path: Path) -> tuple[bytes, Callable[[bytes], object]]:
    """A sound file, and what reads it."""
    path = tmp_path / "changed.zip"
    if name in FORMATS:
        return encoded(name), lambda data: open_image(data, "a")
    if name in LABELS:
        sixteen = name == "rgb16"
        options = {"rgb16": sixteen, "cityscapes_colors": not sixteen}
        return label(name, tmp_path), lambda data: decode_label(data, "a", **options)

    good, read = (archive(tmp_path), read_archive) if name == "zip" else (CLASSES, read_class_file)

    def read_written(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return good, read_written


def mutate(name: str, tmp_path: Path, rounds: int) -> int:
    """→ how many of the mutated files were refused."""
    good, read = case(name, tmp_path)
    read(good)
    generator, refused = random.Random(SEED), 0
    for _ in range(rounds):
        data = mutated(good, generator)
        begin = time.monotonic()
        with growth_below():
            try:
                read(data)
            except DataError as error:
                message = str(error)
                refused += 1
            else:
                message = ""
        assert time.monotonic() - begin < LIMIT
        assert "\n" not in message
        assert len(message) <= LONGEST + 3
    return refused


CASES = (*FORMATS, *LABELS, "zip", "classes.yaml")


@pytest.mark.parametrize("name", CASES)
def test_some_mutated_files(tmp_path: Path, name: str) -> None:
    assert mutate(name, tmp_path, 40) > 0 or name in ("BMP", "PPM", "TGA", "QOI")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_mutated_files(tmp_path: Path, name: str) -> None:
    assert mutate(name, tmp_path, 1500) > 0


def test_an_index_beyond_the_palette() -> None:
    """A palette may be shorter than the indices that are used."""
    picture = Image.fromarray(np.full((4, 4), 200, np.uint8))
    picture.putpalette([128, 64, 128])
    check_palette(picture, "a")
