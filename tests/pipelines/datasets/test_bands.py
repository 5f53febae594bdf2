"""Images with more than three channels: reading them, and the messages of other files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastass.pipelines.datasets.bands import Bands, bands_of, levels_of
from fastass.pipelines.datasets.decode import image_size, read_image
from fastass.pipelines.datasets.image_file import LIMIT, pixel_limit
from fastass.pipelines.datasets.layouts import Sample, open_dataset
from fastass.pipelines.errors import DataError

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 8, 5), dtype=np.uint8)


def read(path: Path, channels: int) -> np.ndarray:
    return read_image(Sample("x", path, None), channels)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK"])
def test_four_channels_of_an_image_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.png" if mode == "RGBA" else "a.tif")
    Image.frombytes(mode, (8, 6), LEVELS[:, :, :4].tobytes()).save(path)
    np.testing.assert_array_equal(read(path, 4), LEVELS[:, :, :4])
    assert image_size(path) == (8, 6)
    if mode == "RGBA":  # as before
        np.testing.assert_array_equal(read(path, 3), LEVELS[:, :, :3])


@pytest.mark.parametrize("channels", [3, 4, 5])
def test_numpy_files(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, LEVELS[:, :, :channels])
    np.testing.assert_array_equal(read(path, channels), LEVELS[:, :, :channels])
    assert image_size(path) == (8, 6)
    np.save(path, np.asfortranarray(LEVELS[:, :, :channels]))
    np.testing.assert_array_equal(read(path, channels), LEVELS[:, :, :channels])


def test_sixteen_bits_are_rounded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", LEVELS.astype(np.uint16) * 257 + 100)
    np.testing.assert_array_equal(read(tmp_path / "a.npy", 5)[LEVELS < 255], LEVELS[LEVELS < 255])


def test_an_array_and_its_bands() -> None:
    bands = bands_of(LEVELS)
    assert isinstance(bands, Bands)
    assert bands.size == (8, 6)
    np.testing.assert_array_equal(levels_of(bands), LEVELS)
    assert isinstance(bands_of(LEVELS[:, :, :3]), Image.Image)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (LEVELS, r"has 5 channels, and the network reads 4 \(--channels\)"),
        (LEVELS[:, :, 0], r"is uint8 \[6x8\]; an image is uint8 or uint16 \[H,W,N\]"),
        (LEVELS[:, :, :2], "with N from 3 on"),
        (LEVELS.astype(np.float32), r"is float32 \[6x8x5\]"),
    ],
)
def test_another_array(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / "a.npy", 4)
    assert str(tmp_path / "a.npy") in str(error.value)


def test_other_image_files(tmp_path: Path) -> None:
    Image.fromarray(LEVELS[:, :, :3]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: has 3 channels, and the network reads 4"):
        read(tmp_path / "a.png", 4)
    Image.frombytes("RGBA", (8, 6), LEVELS[:, :, :4].tobytes()).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b.png: has 4 channels, and the network reads 5"):
        read(tmp_path / "b.png", 5)


def test_damaged_numpy_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    np.save(path, LEVELS)
    whole = path.read_bytes()
    for length in (7, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.npy: damaged"):
            read(path, 5)
    path.write_bytes(whole.replace(b"(6, 8, 5)", b"(6,8000000,5)".ljust(9)))
    monkeypatch.setenv(LIMIT, "1000")
    pixel_limit.cache_clear()
    try:
        with pytest.raises(DataError, match=r"a\.npy"):
            read(path, 5)
    finally:
        monkeypatch.undo()
        pixel_limit.cache_clear()
        pixel_limit()
    np.save(path, np.array([None]), allow_pickle=True)
    with pytest.raises(DataError, match="is object"):
        read(path, 5)


def test_a_folder_of_numpy_files(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.yaml").write_text("names: [a, b]\n")
    np.save(tmp_path / "images" / "x.npy", LEVELS)
    Image.fromarray(LEVELS[:, :, 0] % 2).save(tmp_path / "labels" / "x.png")
    data = open_dataset(tmp_path, "folder")
    assert [sample.name for sample in data.samples] == ["x"]
