"""Images to predict: an image file, a folder of images, or the frames of a video."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastass.errors import DataError, UserError
from fastass.pipelines.datasets.decode import read_image
from fastass.pipelines.datasets.layouts import open_images

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


class Frame(NamedTuple):
    """One image. name: relative, without suffix. pixels: RGB uint8 [H,W,3]."""

    name: str
    pixels: np.ndarray


def count(path: Path) -> int:
    """The number of frames; 0 if a video does not say. Raises DataError or UserError."""
    if not _is_video(path):
        return len(open_images(path))
    with _open_video(path) as container:
        return container.streams.video[0].frames if container.streams.video else 0


def frames(path: Path) -> Iterator[Frame]:
    """Every image under a path, or every frame of a video. Raises DataError or UserError."""
    if _is_video(path):
        yield from _video_frames(path)
        return
    for sample in open_images(path).samples:
        yield Frame(sample.name, read_image(sample))


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in VIDEOS


def _open_video(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path}: reading a video needs PyAV: pip install 'fastass[video]'; or give a folder "
            "of its frames"
        ) from None
    try:
        return av.open(str(path))
    except av.FFmpegError as error:
        raise DataError(f"{path}: can't be read as a video: {error.strerror}") from None


def _video_frames(path: Path) -> Iterator[Frame]:
    with _open_video(path) as container:
        import av

        if not container.streams.video:
            raise DataError(f"{path}: a file without a video stream")
        try:
            for i, frame in enumerate(container.decode(video=0)):
                yield Frame(f"{path.stem}/{i:06d}", frame.to_ndarray(format="rgb24"))
        except av.FFmpegError as error:
            raise DataError(f"{path}: damaged video: {error.strerror}") from None
