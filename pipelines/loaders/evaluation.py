"""The evaluation loader: each sample exactly once over all ranks, labels at full resolution."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import AugmentParams
from fastass.pipelines.loaders.normalization import Normalization, normalization
from fastass.pipelines.loaders.pillow import augment_image, normalize
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.loaders.spec import OnBadSample
from fastass.pipelines.packed.dataset import PackedDataset


class EvalBatch(NamedTuple):
    """images: float32 [B,N,h,w] at training size, channels-last, normalised.

    labels: train ids uint8 [B,H,W] at full resolution, or None. size: (W,H) of the images before
    resizing, the same for the whole batch. names: of the samples.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    size: tuple[int, int]
    names: tuple[str, ...]


class EvalLoader:
    """Rank r reads the samples r, r + world, … once each. The last batch may be smaller.

    size: (W,H) of the images in the batches. with_labels: False for prediction. A batch ends early
    where the next image has another size. Labels of a packed data set have its packed size.
    on_bad_sample: `stop` raises DataError while iterating, because scores over fewer samples are
    not comparable; `skip` leaves bad samples out, for statistics other than scores.
    """

    def __init__(
        self,
        dataset: Dataset | PackedDataset,
        size: tuple[int, int],
        normalize: str | Normalization = "bgr",
        batch: int = 1,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        *,
        with_labels: bool = True,
        on_bad_sample: OnBadSample = "stop",
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is outside 0…{world - 1}")
        if batch < 1 or min(size) < 1:
            raise DataError(f"batch {batch} and size {size} must be positive")
        self.how = normalization(normalize)
        self.samples = open_reader(dataset, self.how.channels)
        self.size, self.batch, self.workers = size, batch, workers
        self.numbers = range(rank, len(dataset), world)
        self.with_labels, self.on_bad_sample = with_labels, on_bad_sample

    def __len__(self) -> int:
        """Samples, not batches, that this rank reads."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[EvalBatch]:
        group: list[_Item] = []
        for item in self._items():
            if item is None:
                continue
            if group and (len(group) == self.batch or item.size != group[0].size):
                yield self._batch(group)
                group = []
            group.append(item)
        if group:
            yield self._batch(group)

    def _items(self) -> "Iterator[_Item | None]":
        """None stands for a bad sample that is left out."""
        if not self.workers:
            yield from map(self._read, self.numbers)
            return
        pending: deque[Future[_Item | None]] = deque()
        with ThreadPoolExecutor(self.workers, "fastass-eval") as pool:
            try:
                for i in self.numbers:
                    if len(pending) == self.batch + self.workers:
                        yield pending.popleft().result()
                    pending.append(pool.submit(self._read, i))
                while pending:
                    yield pending.popleft().result()
            finally:
                for item in pending:
                    item.cancel()

    def _read(self, i: int) -> "_Item | None":
        try:
            image = self.samples.image(i)
            label = self.samples.label(i, image.size) if self.with_labels else None
        except DataError:
            if self.on_bad_sample == "stop":
                raise
            return None
        pixels = np.empty((self.size[1], self.size[0], self.how.channels), np.float32)
        normalize(augment_image(image, AugmentParams(), self.size), self.how, pixels)
        return _Item(pixels, label, image.size, self.samples.names[i])

    def _batch(self, items: "list[_Item]") -> EvalBatch:
        images = torch.from_numpy(np.stack([item.image for item in items]))
        labels = [item.label for item in items if item.label is not None]
        return EvalBatch(
            images.permute(0, 3, 1, 2),
            torch.from_numpy(np.stack(labels)) if labels else None,
            items[0].size,
            tuple(item.name for item in items),
        )


class _Item(NamedTuple):
    image: np.ndarray
    label: np.ndarray | None
    size: tuple[int, int]
    name: str
