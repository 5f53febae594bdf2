"""One interface to read samples, from files or from packed shards."""

import io
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from PIL import Image

from fastass.pipelines.datasets.bands import AnyImage
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.datasets.decode import (
    image_size,
    open_channels,
    open_image,
    read_file,
    read_label,
)
from fastass.pipelines.datasets.image_file import damaged, is_turned, open_header
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.datasets.png import SIGNATURE, check_claim, check_complete, check_png
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.dataset import PackedDataset


class SampleReader(Protocol):
    """Samples by number 0 … len−1. Methods raise a DataError that names the bad sample."""

    @property
    def classes(self) -> ClassTable: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def has_labels(self) -> bool: ...
    def __len__(self) -> int: ...

    def size(self, i: int) -> tuple[int, int]:
        """(W,H) of the image, upright."""

    def encoded(self, i: int) -> np.ndarray:
        """The image as the bytes of a JPEG or PNG file, uint8 [n]; checksums are verified."""

    def image(self, i: int) -> AnyImage:
        """The decoded image, upright: RGB, or with further channels if they were asked for."""

    def label(self, i: int, size: tuple[int, int]) -> np.ndarray:
        """Train ids uint8 [H,W], read-only. size: (W,H) of the image, which the label must have."""


class FileReader:
    """Reads the files of a data set as its owners ship it."""

    def __init__(self, dataset: Dataset, channels: int = 3) -> None:
        self.dataset, self.channels = dataset, channels
        self._verified = bytearray(len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def classes(self) -> ClassTable:
        return self.dataset.classes

    @cached_property
    def names(self) -> Sequence[str]:
        return tuple(sample.name for sample in self.dataset.samples)

    @cached_property
    def has_labels(self) -> bool:
        return all(sample.label is not None for sample in self.dataset.samples)

    def size(self, i: int) -> tuple[int, int]:
        return image_size(self.dataset.samples[i].image)

    def encoded(self, i: int) -> np.ndarray:
        path = self.dataset.samples[i].image
        data = read_file(path)
        header = open_header(data, str(path))
        if data[:8] == SIGNATURE:
            _check_png(data, str(path), counted=bool(self._verified[i]))
        elif not self._verified[i]:  # JPEG has no checksum, and DALI accepts a truncated one
            self._open(i, data)
        self._verified[i] = 1
        if header.format == "TIFF" or is_turned(data, header):  # DALI would decode it otherwise
            file = io.BytesIO()
            self._open(i, data).save(file, "PNG", compress_level=1)
            data = file.getvalue()
        return np.frombuffer(data, np.uint8)

    def image(self, i: int) -> AnyImage:
        sample = self.dataset.samples[i]
        data, where = read_file(sample.image), str(sample.image)
        return open_channels(data, self.channels, where, turn=sample.label is None)

    def _open(self, i: int, data: bytes) -> Image.Image:
        sample = self.dataset.samples[i]
        return open_image(data, str(sample.image), turn=sample.label is None)

    def label(self, i: int, size: tuple[int, int]) -> np.ndarray:
        return read_label(self.dataset, self.dataset.samples[i], size)


class PackedReader:
    """Reads packed shards; the checksums of a record are verified when it is first read."""

    def __init__(self, dataset: PackedDataset) -> None:
        self.dataset = dataset
        self._verified = bytearray(len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def classes(self) -> ClassTable:
        return self.dataset.classes

    @property
    def names(self) -> Sequence[str]:
        return self.dataset.names

    @property
    def has_labels(self) -> bool:
        return self.dataset.has_labels

    def size(self, i: int) -> tuple[int, int]:
        return self.dataset.size

    def encoded(self, i: int) -> np.ndarray:
        data = self.dataset.image_bytes(i)
        if not self._verified[i] and data[:8] == SIGNATURE:
            _check_png(data, self.dataset.describe(i))
        self._verify(i)
        return np.frombuffer(data, np.uint8)

    def image(self, i: int) -> Image.Image:
        self._verify(i)
        return open_image(self.dataset.image_bytes(i), self.dataset.describe(i))

    def label(self, i: int, size: tuple[int, int]) -> np.ndarray:
        self._verify(i)
        label = self.dataset.label(i)
        if label is None:
            raise DataError(f"{self.dataset.describe(i)}: image without label")
        if label.shape != (size[1], size[0]):
            raise DataError(
                f"{self.dataset.describe(i)}: image is {size[0]}x{size[1]} but its label is "
                f"{label.shape[1]}x{label.shape[0]}"
            )
        return label

    def _verify(self, i: int) -> None:
        if not self._verified[i]:
            self.dataset.check(i)
            self._verified[i] = 1


def _check_png(data: bytes | memoryview, where: str, *, counted: bool = False) -> None:
    """DataError for a damaged PNG. counted: it is known to hold all of its pixels.

    Decoders, DALI's too, fill up what is missing.
    """
    try:
        info = check_png(data)
        if not counted:
            check_claim(info)
            check_complete(data, info)
    except (ValueError, zlib.error) as error:
        raise damaged(where, error) from error


def open_reader(dataset: Dataset | PackedDataset, channels: int = 3) -> SampleReader:
    """The reader for a data set, of images with so many channels. DataError if it has fewer."""
    if isinstance(dataset, Dataset):
        return FileReader(dataset, channels)
    if channels != 3:
        raise DataError(
            f"{dataset.root}: packed images have 3 channels, and the network reads {channels} "
            "(--channels); give the data set as files"
        )
    return PackedReader(dataset)
