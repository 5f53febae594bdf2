"""Images to predict: image files, folders of images, the frames of videos."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastass.errors import DataError, UserError
from fastass.pipelines.datasets.decode import decode_image
from fastass.pipelines.datasets.files import File, FolderFiles, read_file
from fastass.pipelines.datasets.image_file import SUFFIXES
from fastass.pipelines.datasets.layouts import Sample, open_images

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
MISSING = 1.0  # seconds after the last frame, from which on a video counts as truncated


class Frame(NamedTuple):
    """One image. name: relative, without suffix. pixels: uint8 [H,W,N], RGB first. checksum: of the
    file, or of a video's frame."""

    name: str
    pixels: np.ndarray
    checksum: int


class Item(NamedTuple):
    """An image to be read. name: of its results. file: where it is. read: its bytes, or a video's
    pixels. decode: pixels of what was read. Both may raise DataError."""

    name: str
    file: File
    read: Callable[[], Any]
    decode: Callable[[Any], np.ndarray]


class Inputs:
    """The images, folders and videos that were given, in order. Folders are listed once, here.

    Raises DataError or UserError for a path that is not there.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._samples = [None if _is_video(path) else _samples(path) for path in paths]

    def count(self) -> int:
        """The number of frames; 0 if a video does not say. Raises DataError or UserError."""
        total = 0
        for path, samples in zip(self.paths, self._samples, strict=True):
            if samples is not None:
                total += len(samples)
                continue
            with _open_video(path) as container:
                streams = container.streams.video
                if not streams or not streams[0].frames:
                    return 0
                total += streams[0].frames
        return total

    def left_out(self) -> list[Path]:
        """What lies in the folders and is not predicted: videos, and other formats."""
        folders = (FolderFiles(path) for path in self.paths if path.is_dir())
        found = (file for folder in folders for _, file in folder.below(""))
        return sorted(file for file in found if file.suffix.lower() not in SUFFIXES)

    def files(self) -> frozenset[str]:
        """The real paths of all image files, which no result may replace."""
        images = (str(s.image) for samples in self._samples for s in samples or ())
        return frozenset(map(os.path.realpath, images))

    def items(self, failed: Callable[[DataError], None], channels: int = 3) -> Iterator[Item]:
        """Every image, in order.

        A single path gives the names below it; of several, names are relative to the folder that
        they share. failed: takes the error of a video that breaks off, or that is none; it may
        raise it. channels: of the images. UserError for two results of one name.
        """
        base = None
        if len(self.paths) > 1:
            base = os.path.commonpath([os.path.abspath(path.parent) for path in self.paths])
        seen: dict[str, str] = {}
        for path, samples in zip(self.paths, self._samples, strict=True):
            prefix = "" if base is None else _prefix(path, base)
            try:
                for item in _items(path, samples, channels):
                    result = prefix + item.name
                    name = result.removesuffix("_leftImg8bit")  # which results leave out
                    if name in seen:
                        raise UserError(
                            f"{item.file}: its result would have the name of {seen[name]}'s; "
                            "predict them into two folders"
                        )
                    seen[name] = str(item.file)
                    yield item._replace(name=result)
            except DataError as error:
                if samples is not None:
                    raise
                failed(error)


def _prefix(path: Path, base: str) -> str:
    folder = path if path.is_dir() else path.parent
    prefix = os.path.relpath(os.path.abspath(folder), base) + "/"
    return "" if prefix == "./" else prefix


def _items(path: Path, samples: Sequence[Sample] | None, channels: int) -> Iterator[Item]:
    """Of one path. samples: its images, None for a video."""
    if samples is None:
        if channels != 3:
            raise UserError(
                f"{path}: a video has 3 channels, and the network reads {channels}; give images"
            )
        for name, pixels in _video_frames(path):
            yield Item(name, path, partial(np.ascontiguousarray, pixels), np.asarray)
        return
    for sample in samples:
        decode = partial(decode_image, sample=sample, channels=channels)
        yield Item(sample.name, sample.image, partial(read_file, sample.image), decode)


def _samples(path: Path) -> Sequence[Sample]:
    if path.is_file():  # whatever its name says, the content decides
        return (Sample(path.stem, path, None),)
    return open_images(path).samples


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in VIDEOS


def _open_video(path: Path) -> Any:
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path}: reading a video needs PyAV: pip install av; or give a folder of its frames"
        ) from None
    try:
        return av.open(str(path))
    except av.FFmpegError as error:
        raise DataError(f"{path}: can't be read as a video: {error.strerror}") from None


def _video_frames(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Its frames. DataError, where the frames before are good, for damage and for a missing end."""
    with _open_video(path) as container:
        import av

        if not container.streams.video:
            raise DataError(f"{path}: a file without a video stream")
        stream = container.streams.video[0]
        # A decoder repairs what is damaged from the frames before, unless it is told not to.
        stream.codec_context.options = {"err_detect": "explode"}
        at = i = 0
        try:
            for i, frame in enumerate(container.decode(stream), 1):
                if frame.is_corrupt:
                    raise DataError(f"{path}: damaged video: frame {i}")
                at = frame.time or 0
                yield f"{path.stem}/{i - 1:06d}", frame.to_ndarray(format="rgb24")
        except av.FFmpegError as error:
            raise DataError(f"{path}: damaged video after frame {i}: {error.strerror}") from None
        end = _stated_end(container, stream)
        if end is not None and at + MISSING < end:
            raise DataError(f"{path}: truncated video: it ends at {at:.1f} s of {end:.1f} s")


def _stated_end(container: Any, stream: Any) -> float | None:
    """Seconds at which the video ends by its header; None if that may be the end of its sound."""
    if stream.duration is not None:
        return float((stream.start_time or 0) + stream.duration) * float(stream.time_base)
    if container.duration is None or len(container.streams) > 1:
        return None
    return float((container.start_time or 0) + container.duration) / 1e6  # microseconds
