"""Decodes the files of a sample: images to RGB, labels to train ids.

PNG checksums are verified; other formats have none. Of a TIFF the first page is read, and its
geographic position is not. Anything that is wrong raises a DataError: one line that names the file.
"""

import numpy as np
from PIL import Image

from fastass.pipelines.datasets.bands import NPY, AnyImage, levels_of, npy_size, open_npy, split
from fastass.pipelines.datasets.files import File
from fastass.pipelines.datasets.files import read_file as read_file
from fastass.pipelines.datasets.image_file import (
    DAMAGE,
    check_pixels,
    damaged,
    is_turned,
    open_header,
    orientation,
    upright,
)
from fastass.pipelines.datasets.layouts import Dataset, Sample
from fastass.pipelines.datasets.palette import check_palette
from fastass.pipelines.datasets.png import (
    GREY,
    PALETTE,
    RGB,
    SIGNATURE,
    check_claim,
    check_complete,
    check_png,
    decode_rgb16,
    last_row,
)
from fastass.pipelines.errors import DataError

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_BITS, _COMPRESSION, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 259, 262, 0  # tags of a TIFF, and a value
# Lossless compressions of a TIFF → the most bytes that one byte can hold: none, LZW, deflate (two
# numbers), PackBits.
_RATIOS = {1: 1, 5: 2800, 8: 1032, 32946: 1032, 32773: 64}


def read_image(sample: Sample, channels: int = 3) -> np.ndarray:
    """The image as uint8 [H,W,N]: RGB and further channels.

    Raises DataError for a missing or damaged file, and for one of other channels.

    An image without label is turned upright by its EXIF orientation. Of one with a label nobody
    knows whether the label was made before or after turning: that is a DataError too.
    """
    return decode_image(read_file(sample.image), sample, channels)


def decode_image(data: bytes, sample: Sample, channels: int = 3) -> np.ndarray:
    """`read_image` of a file that was read already."""
    where = str(sample.image)
    return levels_of(open_channels(data, channels, where, turn=sample.label is None))


def read_label(dataset: Dataset, sample: Sample, size: tuple[int, int] | None = None) -> np.ndarray:
    """The label as train ids, uint8 [H,W]. size: (W,H) of its image; None: read it from the file.

    Raises DataError if there is no label, if it is damaged or a colour image, if a value is not in
    the class table, and if image and label differ in size.
    """
    raw = read_label_values(dataset, sample)
    _check_size(size or image_size(sample.image), (raw.shape[1], raw.shape[0]), sample)
    return dataset.classes.encode(raw, str(sample.label))


def read_label_values(dataset: Dataset, sample: Sample) -> np.ndarray:
    """The label's values as the file has them, uint8 or uint16 [H,W]; the image is not read.

    Raises DataError if there is no label, and if it is damaged or a colour image.
    """
    if sample.label is None:
        raise DataError(f"{sample.image}: image without label")
    return decode_label(
        read_file(sample.label),
        str(sample.label),
        rgb16=dataset.rgb16,
        cityscapes_colors=dataset.layout in ("gta5", "cityscapes"),
    )


def open_channels(
    data: bytes | memoryview, channels: int, where: str, *, turn: bool = True
) -> AnyImage:
    """Decode an image file to so many channels. turn: see `open_image`. Raises DataError."""
    if data[:6] == NPY:
        return open_npy(data, channels, where)
    if channels == 3:
        return open_image(data, where, turn=turn)
    try:
        return split(_upright(data, where, turn), channels, where)
    except DataError:
        raise
    except DAMAGE as error:
        raise damaged(where, error) from error


def open_image(data: bytes | memoryview, where: str, *, turn: bool = True) -> Image.Image:
    """Decode an image file to RGB. Raises a DataError that names `where`.

    turn: turn it upright by its EXIF orientation; False: an image that needs it is a DataError.
    """
    try:
        return _rgb(_upright(data, where, turn), where)
    except DataError:
        raise
    except DAMAGE as error:
        raise damaged(where, error) from error


def _upright(data: bytes | memoryview, where: str, turn: bool) -> Image.Image:
    png = check_png(data) if data[:8] == SIGNATURE else None
    image = open_header(data, where)
    if png is not None:
        check_claim(png)
        image.load()
        check_complete(data, png, last_row(image))
    elif image.format == "TIFF":
        _check_tiff_claim(image, data, where)
    code = orientation(image)
    if not turn and code != 1:
        raise _turned(where, code, "its label may be turned or not")
    return upright(image)


def _turned(where: str, code: int, other: str) -> DataError:
    return DataError(
        f"{where}: has EXIF orientation {code}, and {other}; store the pixels upright, without the "
        "tag (mogrify -auto-orient)"
    )


def decode_label(
    data: bytes, where: str, *, rgb16: bool = False, cityscapes_colors: bool = False
) -> np.ndarray:
    """Decode a label to the ids in the file, uint8 or uint16 [H,W]; of a palette: the indices.

    rgb16: the file may be a 16-bit RGB PNG whose first channel has the ids.
    cityscapes_colors: a palette must show these, see `check_palette`. Raises DataError, also for a
    label with an EXIF orientation: nobody knows whether it was made before or after turning.
    """
    try:
        if data[:4] in _TIFF:
            return _tiff_label(data, where)
        info = check_png(data)
        check_pixels((info.width, info.height), where)
        check_claim(info)
        if rgb16 and (info.colour, info.depth) == (RGB, 16):
            return decode_rgb16(data, info)[..., 0]
        if info.colour not in (GREY, PALETTE):
            wanted = "16-bit, class id in the first channel" if rgb16 else "palette or grey, of ids"
            raise DataError(
                f"{where}: an RGB colour image of {info.depth} bits, not a label; "
                f"this layout's labels are PNGs ({wanted})"
            )
        if info.colour == GREY and info.depth < 8:  # Pillow would stretch these to 0…255
            raise DataError(
                f"{where}: {info.depth}-bit grey; store label ids in 8 or 16 bits, or as a palette"
            )
        image = open_header(data, where)
        raw = np.asarray(image)
        if is_turned(data, image):
            raise _turned(where, orientation(image), "its image may be turned or not")
        check_complete(data, info, raw[-1])
        if cityscapes_colors and info.colour == PALETTE:
            check_palette(image, where)
        return raw if raw.dtype == np.uint8 else raw.astype(np.uint16)
    except DataError:
        raise
    except DAMAGE as error:
        raise damaged(where, error) from error


def _tiff_label(data: bytes, where: str) -> np.ndarray:
    """As `decode_label`. Refused is what Pillow would stretch, invert or turn."""
    image = open_header(data, where)
    tags = image.tag_v2  # type: ignore[attr-defined]  # of a TIFF
    if tags.get(_COMPRESSION, 1) not in _RATIOS:
        raise DataError(
            f"{where}: a label in a TIFF is uncompressed, or compressed by LZW, deflate or PackBits"
        )
    _check_tiff_claim(image, data, where)
    plain = tags.get(_BITS) in ((8,), (16,)) and tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO
    if image.mode != "P" and not (plain and image.mode in ("L", "I;16", "I;16B")):
        raise DataError(
            f"{where}: a TIFF of mode {image.mode}, not a label; labels are a palette, or grey of "
            "8 or 16 bits without sign where 0 is black"
        )
    if (code := orientation(image)) != 1:
        raise _turned(where, code, "its image may be turned or not")
    raw = np.asarray(image)
    return raw if raw.dtype == np.uint8 else raw.astype(np.uint16)


def _check_tiff_claim(image: Image.Image, data: bytes | memoryview, where: str) -> None:
    """Raise DataError if a TIFF claims more pixels than its data can hold, before it is decoded."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    ratio = _RATIOS.get(tags.get(_COMPRESSION, 1))
    bits = sum(tags.get(_BITS, (1,)))
    if ratio is not None and image.width * image.height * bits > 8 * ratio * len(data):
        raise DataError(
            f"{where}: damaged image file: claims {image.width}x{image.height} pixels, more than "
            "its data can hold"
        )


def image_size(path: File) -> tuple[int, int]:
    """(width, height) of an image file, turned upright. Decodes nothing unless it is turned."""
    data, where = read_file(path), str(path)
    if data[:6] == NPY:
        return npy_size(data, where)
    image = open_header(data, where)
    return open_image(data, where).size if is_turned(data, image) else image.size


def _check_size(image: tuple[int, int], label: tuple[int, int], sample: Sample) -> None:
    """Raises DataError where an image and its label differ in size (a few of GTA5's do)."""
    if image != label:
        raise DataError(
            f"{sample.image}: image is {image[0]}x{image[1]} but its label {sample.label} is "
            f"{label[0]}x{label[1]}; remove both files, or make their sizes equal"
        )


def _rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "F":  # of which range, no file says
        raise DataError(f"{where}: has floating-point values; store levels of 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise DataError(
                f"{where}: has grey values beyond 16 bits; store levels of 8 or 16 bits"
            )
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image
