"""A trained network as one object that turns images into train ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastass.config.schema import NormStatistics
from fastass.errors import UserError
from fastass.inference.tiled_labels import tiled_labels
from fastass.inference.views import Views, labels, probabilities
from fastass.inference.visualize import colorize
from fastass.models.deeplab import DeepLab
from fastass.models.domain_statistics import TargetStatistics
from fastass.pipelines.datasets.bands import bands_of, levels_of, split
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.datasets.decode import open_channels, read_file
from fastass.pipelines.datasets.image_file import DAMAGE, check_pixels, damaged, upright
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import AugmentParams
from fastass.pipelines.loaders.normalization import Normalization, normalization
from fastass.pipelines.loaders.pillow import augment_image, normalize
from fastass.runtime.device import Runtime

AnyImage = str | Path | Image.Image | np.ndarray
Size = tuple[int, int]


@dataclass(frozen=True)
class Preparation:
    """Turns an image into the network's input. size: (W,H) of training."""

    size: Size
    normalize: str | Normalization

    @property
    def how(self) -> Normalization:
        return normalization(self.normalize)

    def __call__(self, image: np.ndarray, size: Size | None = None) -> Tensor:
        """uint8 [H,W,N] → float32 [1,N,h,w], channels-last, resized to `size` (W,H)."""
        width, height = size or self.size
        pixels = np.empty((height, width, self.how.channels), np.float32)
        resized = augment_image(bands_of(image), AugmentParams(), (width, height))
        normalize(resized, self.how, pixels)
        return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)


@dataclass(frozen=True, repr=False)
class Segmenter:
    """A trained generator with its classes and the way its images are prepared.

    classes: names and colours by train id. report: names over which a second mean is given.
    norm_statistics: the kind of running statistics that the generator's norms hold, None if there
    is one kind. other_statistics: the other kind, if the checkpoint has it. origin: the checkpoint,
    folder or weight file that it was loaded from.
    """

    generator: DeepLab
    classes: ClassTable
    prepare: Preparation
    runtime: Runtime
    report: tuple[str, ...] = ()
    norm_statistics: NormStatistics | None = None
    other_statistics: TargetStatistics | None = None
    origin: Path | None = None

    def __repr__(self) -> str:
        model, (width, height) = self.generator.config, self.prepare.size
        return (
            f"<Segmenter {model.backbone}, {len(self.classes)} classes, {width}x{height}, "
            f"{self.runtime.device}>"
        )

    def predict(
        self,
        image: AnyImage | Sequence[AnyImage],
        *,
        size: Size | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tile: Size | None = None,
        overlap: int = 0,
    ) -> np.ndarray | list[np.ndarray]:
        """Train ids uint8 [H,W] of an image, at its own size.

        image: a path, a PIL image, uint8 [H,W,N], or a batch: uint8 [B,H,W,N] gives uint8 [B,H,W],
        a list gives a list. N is 3 (RGB), or what the network was trained with (`--channels`).
        size: (W,H) at which the network reads the image (default: that of training; with tiles, the
        image's own). scales, flip, tile, overlap: see `Views` of `fastass.inference.views`. Raises
        UserError or DataError for images that can't be predicted.
        """
        views = Views(tuple(scales), flip, tile, overlap)
        if isinstance(image, np.ndarray) and image.ndim == 4:
            return np.stack([self.labels(self.pixels(one), views, size) for one in image])
        if isinstance(image, Sequence) and not isinstance(image, str):
            return [self.labels(self.pixels(one), views, size) for one in image]
        return self.labels(self.pixels(image), views, size)

    def probabilities(
        self,
        image: AnyImage,
        *,
        size: Size | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        tile: Size | None = None,
        overlap: int = 0,
    ) -> np.ndarray:
        """Class probabilities float32 [C,H,W] of one image; arguments as of `predict`."""
        views, pixels = Views(tuple(scales), flip, tile, overlap), self.pixels(image)
        batch = self.read(pixels, views, size)
        out = (pixels.shape[0], pixels.shape[1])
        P = probabilities(self.generator, batch, out, views, self.runtime)
        return P[0].contiguous().cpu().numpy()

    def pixels(self, image: AnyImage) -> np.ndarray:
        """uint8 [H,W,N] of an image of any kind, with the channels that the network reads."""
        return levels(image, self.generator.config.channels)

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Train ids uint8 [H,W] → their classes' colours, RGB uint8 [H,W,3]."""
        return colorize(labels, self.classes)

    def read(self, pixels: np.ndarray, views: Views, size: Size | None = None) -> Tensor:
        """The input of `fastass.inference.views` for RGB uint8 [H,W,3]."""
        if size is not None and min(size) < 1:
            raise UserError(f"size: expected a size above 0, got {size[0]}x{size[1]}")
        own = (pixels.shape[1], pixels.shape[0])
        size = size or (own if views.tile is not None else self.prepare.size)
        return self.prepare(pixels, views.read_at(size))

    def in_tiles(self, pixels: np.ndarray, views: Views, size: Size | None = None) -> bool:
        """Whether an image is read tile by tile, never whole: at its own size and one scale."""
        own = (pixels.shape[1], pixels.shape[0])
        one = views.tile is not None and len(views.scales) == 1
        return one and views.read_at(size or own) == own

    def labels(
        self,
        pixels: np.ndarray,
        views: Views,
        size: Size | None = None,
        batch: Tensor | None = None,
    ) -> np.ndarray:
        """Train ids uint8 [H,W] of RGB uint8 [H,W,3]. batch: what `read` gave, if it was called."""
        if self.in_tiles(pixels, views, size):
            return tiled_labels(self.generator, pixels, self._tile, views, self.runtime)
        out = (pixels.shape[0], pixels.shape[1])
        if batch is None:
            batch = self.read(pixels, views, size)
        return labels(self.generator, batch, out, views, self.runtime)[0].cpu().numpy()

    def _tile(self, pixels: np.ndarray) -> Tensor:
        return self.prepare(pixels, (pixels.shape[1], pixels.shape[0]))


def _upright(image: Image.Image) -> Image.Image:
    """A PIL image turned as its EXIF orientation says, as one that is read from its file."""
    try:
        check_pixels(image.size, "image")
        return upright(image)
    except DataError:
        raise
    except DAMAGE as error:
        raise damaged(getattr(image, "filename", "") or "image", error) from None


def levels(image: AnyImage, channels: int) -> np.ndarray:
    """An image of any kind → uint8 [H,W,N], of N channels. Raises DataError or UserError."""
    if isinstance(image, (str, Path)):
        return levels_of(open_channels(read_file(Path(image)), channels, str(image)))
    if isinstance(image, Image.Image):
        if channels == 3:
            return np.asarray(_upright(image).convert("RGB"))
        return split(_upright(image), channels, getattr(image, "filename", "") or "image").levels()
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"image: expected a path, a PIL image or a uint8 array, got {type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or not image.size:
        shape = "x".join(map(str, image.shape))
        kind = "RGB uint8 [H,W,3]" if channels == 3 else f"uint8 [H,W,{channels}]"
        raise UserError(f"image: expected {kind}, got {image.dtype} [{shape}]")
    return image
