"""Encodes one sample of a data set as a packed record."""

import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image, features

from fastass.pipelines.datasets.decode import read_image, read_label
from fastass.pipelines.datasets.layouts import Dataset, Sample
from fastass.pipelines.packed.manifest import PackSettings
from fastass.pipelines.packed.shard_writer import EncodedMember, EncodedSample, record_meta


def encoder_settings(image: str, quality: int) -> Mapping[str, Any]:
    """The parameters of `encode_sample`, and the versions of the libraries that it uses."""
    codec: dict[str, Any] = (
        {"quality": quality, "subsampling": "4:4:4"} if image == "jpeg" else {"compress_level": 1}
    )
    return codec | {
        "image_resize": "bicubic, antialiased",
        "label_resize": "nearest",
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "zlib": features.version("zlib_ng") or features.version("zlib"),
        "torch": torch.__version__.split("+")[0],
    }


def encode_sample(dataset: Dataset, sample: Sample, settings: PackSettings) -> EncodedSample:
    """Read, resize and encode one sample. Raises DataError for damaged files and unknown labels."""
    pixels, label = read_image(sample), None
    if sample.label is not None:
        train_ids = read_label(dataset, sample, (pixels.shape[1], pixels.shape[0]))
        label = Image.fromarray(train_ids).resize(settings.size, Image.Resampling.NEAREST)
    return EncodedSample(
        _member(_encode_image(resize_bicubic(pixels, settings.size), settings)),
        None if label is None else _member(_encode_label(label, settings)),
        _member(record_meta(sample.name, settings)),
        None if label is None else tuple(label.histogram()),
    )


def resize_bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H,W,3] → uint8 [h,w,3], bicubic with antialiasing, size = (w,h).

    torch implements Pillow's algorithm with SIMD instructions and is five times faster. It differs
    by 1 level in 0.002 % of the values when halving, and in 0.3 % at odd ratios.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    tensor = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)[None]
    resized = F.interpolate(tensor, size=size[::-1], mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def _encode_image(image: np.ndarray, settings: PackSettings) -> bytes:
    file = io.BytesIO()
    if settings.image == "jpeg":
        Image.fromarray(image).save(
            file, "JPEG", quality=settings.encoder["quality"], subsampling="4:4:4"
        )
    else:
        Image.fromarray(image).save(file, "PNG", compress_level=settings.encoder["compress_level"])
    return file.getvalue()


def _encode_label(label: Image.Image, settings: PackSettings) -> bytes:
    if settings.label == "raw":
        return label.tobytes()
    file = io.BytesIO()
    label.save(file, "PNG")
    return file.getvalue()


def _member(data: bytes) -> EncodedMember:
    return EncodedMember(data, zlib.crc32(data))
