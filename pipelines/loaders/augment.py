"""Random augmentation: the parameters drawn for each sample, and the geometry they imply.

All loaders apply `AugmentParams` in this order: resize the region to the training size (images
bicubic with antialiasing, labels nearest), mirror, colour matrix, blur, and padding where the
region goes beyond the image: 0 after normalisation, and `IGNORE` in labels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.order import uniforms


@dataclass(frozen=True)
class Augment:
    """The augmentation settings of one stream.

    mirror: flip left–right with probability ½. scale: (low, high); the image is resized to `resize`
    (W,H; default: the training size) times a random factor in that range, then a random crop of
    the training size is taken. Both steps are done as one resize of a region. Where the scaled
    image is smaller than the crop, it lies at a random place in it. None: no crop.
    jitter: brightness, contrast and saturation are each multiplied by a factor in 1 ± jitter.
    hue: rotation by up to ± this angle, in degrees. blur: Gaussian blur with a sigma of up to this
    many pixels, with probability ½.
    """

    mirror: bool = True
    scale: tuple[float, float] | None = None
    resize: tuple[int, int] | None = None
    jitter: float = 0.0
    hue: float = 0.0
    blur: float = 0.0

    def check(self, size: tuple[int, int]) -> None:
        """Raises DataError for values out of range."""
        if not 0 <= self.jitter < 1:
            raise DataError(f"jitter must be in [0, 1), got {self.jitter}")
        if not 0 <= self.hue <= 180:
            raise DataError(f"hue must be 0…180 degrees, got {self.hue}")
        if not 0 <= self.blur <= 10:
            raise DataError(f"blur must be a sigma of 0…10 pixels, got {self.blur}")
        if self.scale is None:
            if self.resize is not None:
                raise DataError(
                    "resize sets the size before scaling, so it also needs scale=(low, high)"
                )
            return
        low, high = self.scale
        if not 0 < low <= high:
            raise DataError(f"scale must be (low, high) with 0 < low ≤ high, got {self.scale}")

    def pads(self, size: tuple[int, int]) -> bool:
        """Whether a scaled image may be smaller than the crop `size` (W,H)."""
        if self.scale is None:
            return False
        base = self.resize or size
        lengths = (size[i] / (base[i] * self.scale[0]) for i in (0, 1))
        return any(_span(0.0, n, size[i])[1] < size[i] for i, n in enumerate(lengths))


@dataclass(frozen=True)
class AugmentParams:
    """The random decisions for one sample.

    region: (x, y, width, height) as fractions of the image; it may be larger. color: RGB → RGB, 3
    rows of 3 factors and an offset (levels 0–255), or None. sigma: of the blur in pixels, 0 for
    none.
    """

    mirror: bool = False
    region: tuple[float, float, float, float] | None = None
    color: tuple[float, ...] | None = None
    sigma: float = 0.0


def draw_params(
    augment: Augment, size: tuple[int, int], seed: int, stream: str, position: int
) -> AugmentParams:
    """The parameters for one position, a pure function. size: training size (W,H)."""
    u = uniforms(seed, stream, position, 10)
    region = None
    if augment.scale is not None:
        low, high = augment.scale
        scale = low + (high - low) * u[1]
        base = augment.resize or size
        width, height = size[0] / (base[0] * scale), size[1] / (base[1] * scale)
        region = (u[2] * (1 - width), u[3] * (1 - height), width, height)
    color = None
    if augment.jitter or augment.hue:
        brightness, contrast, saturation = (1 + augment.jitter * (2 * v - 1) for v in u[4:7])
        color = color_matrix(brightness, contrast, saturation, augment.hue * (2 * u[7] - 1))
    blurred = augment.blur > 0 and u[8] < 0.5
    return AugmentParams(
        augment.mirror and u[0] < 0.5, region, color, augment.blur * u[9] if blurred else 0.0
    )


_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.311]])
_TO_RGB = np.linalg.inv(_TO_YIQ)


def color_matrix(
    brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[float, ...]:
    """Rows (r, g, b, offset) of one affine map of RGB levels.

    Hue (degrees) rotates the chroma plane of YIQ, saturation scales it; contrast scales about 128.
    """
    angle = np.deg2rad(hue)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    chroma = np.diag([1, saturation, saturation])
    matrix = contrast * brightness * (_TO_RGB @ turn @ chroma @ _TO_YIQ)
    rows = np.column_stack([matrix, np.full(3, 128 * (1 - contrast))]).astype(np.float32)
    return tuple(float(v) for v in rows.ravel())


def region_box(params: AugmentParams, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of the region that is in the image, in pixels of an image of `size` (W,H): (left,
    top, right, bottom)."""
    x, y, width, height = params.region or (0.0, 0.0, 1.0, 1.0)
    right, bottom = min(1.0, x + width), min(1.0, y + height)
    return max(0.0, x) * size[0], max(0.0, y) * size[1], right * size[0], bottom * size[1]


def placement(params: AugmentParams, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where the image lies in the crop `size` (W,H): (left, top, width, height) in pixels.

    The rest is padding: none unless the region is larger than the image.
    """
    x, y, width, height = params.region or (0.0, 0.0, 1.0, 1.0)
    left, wide = _span(x, width, size[0])
    top, high = _span(y, height, size[1])
    return size[0] - left - wide if params.mirror else left, top, wide, high


def _span(start: float, length: float, pixels: int) -> tuple[int, int]:
    """The first of `pixels` that shows the image, and how many do, along one axis."""
    inside = min(pixels, max(1, round(pixels / length)))
    return min(pixels - inside, max(0, round(-start / length * pixels))), inside


def resize_label(label: np.ndarray, params: AugmentParams, size: tuple[int, int]) -> np.ndarray:
    """Nearest resize of the region, mirrored if `params.mirror`: uint8 [H,W] → [size[1],size[0]].

    Padding is `IGNORE`. Each new pixel takes the old pixel that contains its centre, computed
    exactly. Pillow does the same, but may round down where a centre lies on a border. The result
    may be a view.
    """
    left, top, wide, high = placement(params, size)
    if (wide, high) == size:
        return _resize_nearest(label, params, size)
    padded = np.full((size[1], size[0]), IGNORE, np.uint8)
    padded[top : top + high, left : left + wide] = _resize_nearest(label, params, (wide, high))
    return padded


def _resize_nearest(label: np.ndarray, params: AugmentParams, size: tuple[int, int]) -> np.ndarray:
    height, width = label.shape
    if params.region is None and size == (width, height):
        return label[:, ::-1] if params.mirror else label
    if params.region is None:
        rows, columns = _centres(height, size[1]), _centres(width, size[0])
    else:
        left, top, right, bottom = region_box(params, (width, height))
        rows = _region_centres(top, bottom, size[1], height)
        columns = _region_centres(left, right, size[0], width)
    resized: np.ndarray = label[rows].take(columns[::-1] if params.mirror else columns, axis=1)
    return resized


@lru_cache(maxsize=32)
def _centres(length: int, count: int) -> np.ndarray:
    """floor((i + ½) · length / count), in integers."""
    centres: np.ndarray = (2 * np.arange(count) + 1) * length // (2 * count)
    return centres


def _region_centres(start: float, stop: float, count: int, length: int) -> np.ndarray:
    at = start + (np.arange(count) + 0.5) * ((stop - start) / count)
    return np.clip(at.astype(np.intp), 0, length - 1)
