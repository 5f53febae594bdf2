"""Images with more channels than red, green and blue: depth, near infrared, thermal …

A file has them as a PNG with four channels (whatever the fourth one means), or as a NumPy file
(`.npy`) of uint8 or uint16 [H,W,N]. The first three are red, green and blue. 16-bit values are
rounded to 8 bits.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fastass.pipelines.datasets.image_file import check_pixels, damaged
from fastass.pipelines.errors import DataError

NPY = b"\x93NUMPY"
FOUR = ("RGBA", "CMYK")  # Pillow's modes with four 8-bit channels


@dataclass(frozen=True)
class Bands:
    """One image: red, green and blue, and the further channels, all of one size."""

    rgb: Image.Image
    others: tuple[Image.Image, ...]  # mode L

    @property
    def size(self) -> tuple[int, int]:
        """(W,H)"""
        return self.rgb.size

    def map(self, change: Callable[[Image.Image], Image.Image]) -> "Bands":
        """The same change of every channel."""
        return Bands(change(self.rgb), tuple(change(band) for band in self.others))

    def resize(self, size: tuple[int, int], resample: Image.Resampling) -> "Bands":
        return self.map(lambda image: image.resize(size, resample))

    def levels(self) -> np.ndarray:
        """uint8 [H,W,N]"""
        others = [np.asarray(band)[:, :, None] for band in self.others]
        return np.concatenate([np.asarray(self.rgb), *others], axis=2)


AnyImage = Image.Image | Bands


def bands_of(levels: np.ndarray) -> AnyImage:
    """The image of uint8 [H,W,N]; N = 3: an RGB image."""
    if levels.shape[2] == 3:
        return Image.fromarray(levels)
    others = (
        Image.fromarray(np.ascontiguousarray(levels[:, :, i])) for i in range(3, levels.shape[2])
    )
    return Bands(Image.fromarray(np.ascontiguousarray(levels[:, :, :3])), tuple(others))


def levels_of(image: AnyImage) -> np.ndarray:
    """uint8 [H,W,N] of an image."""
    return image.levels() if isinstance(image, Bands) else np.asarray(image)


def split(image: Image.Image, channels: int, where: str) -> Bands:
    """The bands of a decoded image. DataError, naming `where`, if it has another number."""
    if channels != 4 or image.mode not in FOUR:
        raise DataError(
            f"{where}: has {len(image.getbands())} channels, and the network reads {channels} "
            "(--channels); store them as a PNG with 4 channels, or as .npy [H,W,N]"
        )
    red, green, blue, other = image.split()
    return Bands(Image.merge("RGB", (red, green, blue)), (other,))


def npy_size(data: bytes | memoryview, where: str) -> tuple[int, int]:
    """(W,H) of a NumPy file. DataError naming `where`."""
    shape, _ = _header(io.BytesIO(data), where)
    return shape[1], shape[0]


def open_npy(data: bytes | memoryview, channels: int, where: str) -> AnyImage:
    """The image of a NumPy file. DataError naming `where`."""
    file = io.BytesIO(data)
    shape, dtype = _header(file, where)
    if shape[2] != channels:
        raise DataError(
            f"{where}: has {shape[2]} channels, and the network reads {channels} (--channels)"
        )
    file.seek(0)
    try:
        levels = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise damaged(where, error) from error
    if dtype == np.uint16:
        levels = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return bands_of(np.ascontiguousarray(levels))


def _header(file: io.BytesIO, where: str) -> tuple[tuple[int, int, int], np.dtype]:
    """(shape, dtype), checked before anything is allocated."""
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise damaged(where, error) from error
    if len(shape) != 3 or min(shape) < 1 or shape[2] < 3 or dtype not in (np.uint8, np.uint16):
        sizes = "x".join(map(str, shape))
        raise DataError(
            f"{where}: is {dtype} [{sizes}]; an image is uint8 or uint16 [H,W,N] with N from 3 on"
        )
    height, width, channels = shape
    check_pixels((width, height), where)
    return (height, width, channels), dtype
