"""Prediction: one image to train ids, many image files to prediction files."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fastass.config.text import neighbours
from fastass.errors import UserError
from fastass.inference.frames import Frame, frames
from fastass.inference.segmenter import Preparation, Segmenter
from fastass.inference.stage_timer import StageClock
from fastass.inference.views import Views, labels
from fastass.inference.visualize import colorize, overlay, save_train_ids
from fastass.models.deeplab import DeepLab
from fastass.pipelines.datasets.classes import CITYSCAPES, ClassTable
from fastass.runtime.atomic_write import writing
from fastass.runtime.device import Runtime

FORMATS = ("trainIds", "labelIds", "color", "overlay")
MEASURED = 20  # the fewest images for `--fps`


def predict(
    generator: DeepLab,
    image: np.ndarray,
    size: tuple[int, int],
    normalize: str,
    runtime: Runtime,
) -> np.ndarray:
    """Train ids uint8 [H,W] of an RGB image uint8 [H,W,3].

    The image is resized to `size` (W,H), as in training; the scores are upsampled to the image.
    """
    batch = Preparation(size, normalize)(image)
    out = (image.shape[0], image.shape[1])
    return labels(generator, batch, out, Views(), runtime)[0].cpu().numpy()


@dataclass(frozen=True)
class Writer:
    """Writes predictions under `out` in the formats asked for, as OUT/NAME_FORMAT.png.

    trainIds: pixel value = train id, with the classes' colours as palette. labelIds: pixel value =
    label id of Cityscapes, as its evaluation server expects. color: the classes' colours. overlay:
    the image under the colours.
    """

    out: Path
    formats: tuple[str, ...]
    classes: ClassTable

    def __post_init__(self) -> None:
        if "labelIds" in self.formats:
            label_ids(self.classes)

    def __call__(self, frame: Frame, predicted: np.ndarray) -> None:
        """Write one image's prediction, train ids uint8 [H,W]."""
        name = frame.name.removesuffix("_leftImg8bit")
        for form in self.formats:
            path = self.out / f"{name}_{form}.png"
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._save(form, frame, predicted, path)

    def _save(self, form: str, frame: Frame, predicted: np.ndarray, path: Path) -> None:
        match form:
            case "trainIds":
                save_train_ids(predicted, self.classes, path)
            case "labelIds":
                Image.fromarray(label_ids(self.classes)[predicted]).save(path)
            case "color":
                Image.fromarray(colorize(predicted, self.classes)).save(path)
            case "overlay":
                Image.fromarray(overlay(frame.pixels, predicted, self.classes)).save(path)


def label_ids(classes: ClassTable) -> np.ndarray:
    """Train id → id of the Cityscapes labels, uint8 [C]. UserError for a class of another name."""
    ids = {train_id: raw for raw, train_id in CITYSCAPES.train_ids.items()}
    foreign = [name for name in classes.names if name not in CITYSCAPES.names]
    if foreign:
        raise UserError(
            f"format labelIds: Cityscapes has no class {foreign[0]!r}, which this network predicts"
        )
    return np.array([ids[CITYSCAPES.names.index(name)] for name in classes.names], np.uint8)


def predict_files(
    segmenter: Segmenter,
    images: Path,
    write: Writer,
    views: Views,
    size: tuple[int, int] | None = None,
    clock: StageClock | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Predict an image, all images under a folder, or the frames of a video; → their number.

    size: see `Segmenter.predict`. clock: measures the stages; the images are repeated until there
    are enough. Raises DataError, which names the file, for a file that is no image.
    """

    def stage(name: str) -> AbstractContextManager[None]:
        return clock.stage(name) if clock is not None else nullcontext()

    done = total = 0
    while done == 0 or (clock is not None and clock.images < MEASURED):
        source = frames(images)
        while True:
            with stage("read"):
                frame = next(source, None)
            if frame is None:
                break
            with stage("prepare"):
                batch = segmenter.read(frame.pixels, views, size)
            with stage("network"):
                out = (frame.pixels.shape[0], frame.pixels.shape[1])
                predicted = labels(segmenter.generator, batch, out, views, segmenter.runtime)
                train_ids = predicted[0].cpu().numpy()
            with stage("write"):
                write(frame, train_ids)
            done += 1
            progress(done)
            if clock is not None:
                clock.next()
        total = total or done
        if total == 0:
            raise UserError(f"{images}: no frames in it")
    return total


def parse_formats(text: str) -> tuple[str, ...]:
    """`trainIds,overlay` → its parts. UserError for an unknown format."""
    formats = tuple(part.strip() for part in text.split(",") if part.strip())
    for form in formats:
        if form not in FORMATS:
            raise UserError(f"--format: unknown value {form!r}; {neighbours(form, [*FORMATS])}")
    if not formats:
        raise UserError(f"--format: give one or more of {', '.join(FORMATS)}")
    return formats
