"""Reads the sample at a position of a stream; replaces bad samples and caches small sets."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from fastass.pipelines.datasets.bands import AnyImage
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import AugmentParams, draw_params, resize_label
from fastass.pipelines.loaders.batch import Batch
from fastass.pipelines.loaders.spec import OnBadSample, StreamSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Located:
    """The sample that was read for a position, and how to augment it.

    replaced: the position's own sample was bad, and this is another one. found_bad: one line per
    bad sample that was read for the first time here.
    """

    name: str
    params: AugmentParams
    replaced: bool
    found_bad: tuple[str, ...] = ()


class StreamReader:
    """Position → sample of one stream. Several threads may call it at once.

    cached: keep all decoded samples in memory (at training size if there is no random crop).
    """

    def __init__(
        self,
        name: str,
        spec: StreamSpec,
        seed: int,
        on_bad_sample: OnBadSample = "stop",
        cached: bool = False,
    ) -> None:
        self.name = name
        self.spec = spec
        self.seed = seed
        self.samples = spec.reader()
        self.on_bad_sample = on_bad_sample
        self.bad: dict[int, str] = {}  # sample number → reason
        self._cache: dict[int, tuple[AnyImage, np.ndarray | None]] | None = {} if cached else None

    def read(self, position: int, load: Callable[[int], T]) -> tuple[Located, T]:
        """Call `load(i)` with sample i of the position, or with the next good one if that is bad.

        The replacement depends only on the data, so it is the same in each run and on each rank.
        Raises the DataError of a bad sample unless bad ones are skipped, and if none is good.
        """
        numbers = self.spec.indices
        count = len(self.spec)
        at = self.spec.sample_at(self.seed, self.name, position)
        found_bad = []
        for offset in range(count):
            i = (at + offset) % count
            i = i if numbers is None else numbers[i]
            if i in self.bad:
                continue
            try:
                loaded = load(i)
            except DataError as error:
                if self.on_bad_sample == "stop":
                    raise DataError(
                        f"{error}; to train without it: --on-bad-sample skip"
                    ) from error
                reason = str(error)
                if self.bad.setdefault(i, reason) is reason:
                    found_bad.append(reason)
                continue
            located = Located(
                self.samples.names[i],
                draw_params(self.spec.augment, self.spec.size, self.seed, self.name, position),
                offset > 0,
                tuple(found_bad),
            )
            return located, loaded
        raise DataError(f"stream {self.name}: no good sample; {next(iter(self.bad.values()))}")

    def decode(self, i: int) -> tuple[AnyImage, np.ndarray | None]:
        """Image and label of sample i before augmentation, at training size if there is no crop."""
        if self._cache is not None and i in self._cache:
            return self._cache[i]
        spec = self.spec
        image = self.samples.image(i)
        label = self.samples.label(i, image.size) if spec.with_labels else None
        if spec.augment.scale is None:
            if image.size != spec.size:
                image = image.resize(spec.size, Image.Resampling.BICUBIC)
            if label is not None:
                label = resize_label(label, AugmentParams(), spec.size)
        if self._cache is not None:
            self._cache[i] = (image, label)
        return image, label


def as_batch(
    images: torch.Tensor, labels: torch.Tensor | None, samples: Sequence[Located]
) -> Batch:
    """A batch of images [B,N,H,W] and labels [B,H,W], with the names and faults of its samples."""
    return Batch(
        images,
        labels,
        tuple(sample.name for sample in samples),
        sum(sample.replaced for sample in samples),
        tuple(line for sample in samples for line in sample.found_bad),
    )


def decoded_bytes(spec: StreamSpec) -> int:
    """Memory of all decoded samples of a stream: 4 bytes per pixel in Pillow, 1 per label, 1 per
    further channel."""
    size = spec.size
    if spec.augment.scale is not None:
        samples = spec.reader()
        first = 0 if spec.indices is None else spec.indices[0]
        try:
            size = samples.size(first)
        except DataError:  # damaged: reported, or skipped, when it is read
            return sys.maxsize
    return len(spec) * size[0] * size[1] * (2 + spec.how.channels)
