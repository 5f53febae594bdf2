"""Opens image files with Pillow: known formats only, a limit of pixels, and the orientation tag."""

import io
import os
import re
import struct
import warnings
import zlib
from functools import lru_cache

from PIL import Image, UnidentifiedImageError

from fastass.pipelines.errors import DataError, one_line

LIMIT = "FASTASS_MAX_PIXELS"
DEFAULT_LIMIT = 178_956_970  # pixels; where Pillow too refuses a file
# Not among them: formats that run a program (EPS), are no pictures (PDF, MPEG), or are obsolete.
FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "AVIF",
    "TIFF",
    "BMP",
    "DIB",
    "GIF",
    "JPEG2000",
    "PPM",
    "TGA",
    "SGI",
    "PCX",
    "ICO",
    "QOI",
)
SUFFIXES = tuple(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .avif .tif .tiff .bmp .dib .gif .jp2 .j2k .jpx "
    ".ppm .pgm .pbm .pnm .tga .sgi .pcx .ico .qoi".split()
)
# What Pillow raises for damaged files: of some formats nearly anything. Not MemoryError.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_ORIENTATION = 0x0112  # the EXIF tag; 1 means upright
_PNG_METADATA = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")
_UPRIGHT = {  # what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_header(data: bytes | memoryview, where: str) -> Image.Image:
    """The image of a file, not decoded yet.

    Raises DataError naming `where`: unknown format, damaged header, more pixels than the limit.
    """
    limit = pixel_limit()
    try:
        image = Image.open(io.BytesIO(data), formats=_known_formats())
    except _BOMB as error:
        claimed = re.search(r"\d+ pixels", str(error))  # the size itself is lost with the image
        size = f"{claimed[0]} are " if claimed else ""
        raise DataError(f"{where}: {size}more than {limit} pixels; {_remedy()}") from None
    except UnidentifiedImageError:
        what = "unknown image format" if len(data) else "the file is empty"
        raise DataError(f"{where}: damaged image file: {what}") from None
    except DAMAGE as error:
        raise damaged(where, error) from error
    check_pixels(image.size, where)
    return image


def check_pixels(size: tuple[int, int], where: str) -> None:
    """Raise DataError naming `where` for an image of (W,H) = size beyond the limit."""
    width, height = size
    if width * height > pixel_limit():
        raise DataError(
            f"{where}: {width}x{height} is more than {pixel_limit()} pixels; {_remedy()}"
        )


@lru_cache(maxsize=1)
def pixel_limit() -> int:
    """The most pixels that an image may have: FASTASS_MAX_PIXELS, or Pillow's own limit.

    A file of a few kB can claim 2^31 × 2^31 pixels. Also tells Pillow, which checks for itself,
    and warns of what is handled here. Raises DataError for a value that is no number.
    """
    text = os.environ.get(LIMIT, str(DEFAULT_LIMIT))
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{LIMIT}={text}: must be a number of pixels")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of metadata
    Image.MAX_IMAGE_PIXELS = int(text)
    return int(text)


@lru_cache(maxsize=1)
def _known_formats() -> tuple[str, ...]:
    """FORMATS without those that this Pillow was built without."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def is_turned(data: bytes, image: Image.Image) -> bool:
    """Whether the image of a file, opened but not loaded, is not stored upright."""
    if image.format == "PNG" and not any(mark in data for mark in _PNG_METADATA):
        return False  # known without decoding
    return orientation(image) != 1


def orientation(image: Image.Image) -> int:
    """The EXIF orientation 1…8 of an image not loaded yet; 1 if there is none, or it is damaged.

    Loads a PNG, whose EXIF data may come after the pixels.
    """
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if value in _UPRIGHT else 1


def upright(image: Image.Image) -> Image.Image:
    """The image, loaded, with its pixels turned as its EXIF orientation says."""
    image.load()  # Pillow turns a TIFF by itself, and drops the tag
    turn = _UPRIGHT.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def damaged(where: str, error: Exception) -> DataError:
    """The DataError for what Pillow raised on a damaged file."""
    reason = one_line(error, 200) or type(error).__name__
    return DataError(f"{where}: damaged image file: {reason}")


def _remedy() -> str:
    return f"if the file is right, raise the limit with {LIMIT}=N"
