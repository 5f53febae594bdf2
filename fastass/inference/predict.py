"""Prediction: one image to train ids, many image files to prediction files."""

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from fastass.errors import DataError, UserError
from fastass.inference.formats import MEASURED_IMAGES
from fastass.inference.frames import Frame, Inputs, Item
from fastass.inference.segmenter import Preparation, Segmenter
from fastass.inference.stage_timer import StageClock
from fastass.inference.views import Views, labels
from fastass.inference.writer import Writer
from fastass.models.deeplab import DeepLab
from fastass.pipelines.loaders.normalization import Normalization
from fastass.runtime.device import Runtime


def predict(
    generator: DeepLab,
    image: np.ndarray,
    size: tuple[int, int],
    normalize: str | Normalization,
    runtime: Runtime,
) -> np.ndarray:
    """Train ids uint8 [H,W] of an image uint8 [H,W,N].

    The image is resized to `size` (W,H), as in training; the scores are upsampled to the image.
    """
    batch = Preparation(size, normalize)(image)
    out = (image.shape[0], image.shape[1])
    return labels(generator, batch, out, Views(), runtime)[0].cpu().numpy()


@dataclass(frozen=True)
class Outcome:
    """What `predict_files` did. kept: images whose results were there already."""

    predicted: int
    kept: int
    bad: tuple[str, ...]
    """A line for each image that could not be read."""


def predict_files(
    segmenter: Segmenter,
    inputs: Inputs,
    write: Writer,
    views: Views,
    size: tuple[int, int] | None = None,
    clock: StageClock | None = None,
    progress: Callable[[int], None] = lambda done: None,
    *,
    on_bad_sample: str = "stop",
    resume: bool = False,
) -> Outcome:
    """Predict images, all images under folders, and the frames of videos.

    size: see `Segmenter.predict`. clock: measures the stages; the images are repeated until there
    are enough. on_bad_sample: `stop` raises DataError, which names the file, for one that is no
    image; `skip` leaves it out. resume: leave out images whose results are all there,
    made of the same file.
    """

    def stage(name: str) -> AbstractContextManager[None]:
        return clock.stage(name) if clock is not None else nullcontext()

    bad: dict[str, None] = {}
    channels = segmenter.generator.config.channels

    def failed(error: DataError) -> None:
        if on_bad_sample == "stop":
            raise error
        bad[str(error)] = None

    done = kept = total = 0
    while True:
        items, before = inputs.items(failed, channels), done + kept + len(bad)
        while True:
            with stage("read"):
                item = next(items, None)
                if item is None:
                    break
                try:
                    frame = _frame(item, write if resume else None)
                except DataError as error:
                    failed(error)
                    continue
                if frame is None:
                    kept += 1
                    continue
            with stage("prepare"):
                whole = not segmenter.in_tiles(frame.pixels, views, size)
                batch = segmenter.read(frame.pixels, views, size) if whole else None
            with stage("network"):
                train_ids = segmenter.labels(frame.pixels, views, size, batch)
            with stage("write"):
                write(frame, train_ids)
            done += 1
            progress(done + kept)
            if clock is not None:
                clock.next()
        total = total or done
        if done + kept + len(bad) == before == 0:
            raise UserError(f"{inputs.paths[0]}: no frames in it")
        if clock is None or clock.images >= MEASURED_IMAGES or done == 0:
            return Outcome(total, kept, tuple(bad))


def _frame(item: Item, done: Writer | None) -> Frame | None:
    """Read an image; None if `done` has its results. The bytes of its file are not kept."""
    content = item.read()
    checksum = zlib.crc32(content)
    if done is not None and done.is_done(item.name, checksum):
        return None
    return Frame(item.name, item.decode(content), checksum)
