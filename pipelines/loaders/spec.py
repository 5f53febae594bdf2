"""The streams that a loader reads, and the interface of all training loaders.

How to use a loader:

    streams = {
        "source": StreamSpec(gta5, batch=4, size=(1280, 720)),
        "labelled": StreamSpec(cityscapes, batch=4, size=(1024, 512), indices=subset),
        "unlabelled": StreamSpec(cityscapes, batch=4, size=(1024, 512), with_labels=False),
    }
    with open_loader("pillow", streams, seed=0, rank=rank, world=world) as loader:
        for step, batch in enumerate(loader.batches(start_step=resumed), start=resumed):
            batch.source.images, batch.source.labels, batch.labelled.images, …

A stream that is left out is None in every batch. `step` counts batches (with gradient accumulation:
micro-steps). A batch depends only on (seed, step, rank, world), so a resumed run needs no state of
the loader. `Batch.skipped` counts the bad samples that were replaced.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.batch import StepBatch
from fastass.pipelines.loaders.normalization import Normalization, normalization
from fastass.pipelines.loaders.order import sample_at
from fastass.pipelines.loaders.rare_class import RareClassOrder
from fastass.pipelines.loaders.sample_reader import SampleReader, open_reader
from fastass.pipelines.packed.dataset import PackedDataset

STREAMS = ("source", "labelled", "unlabelled")
OnBadSample = Literal["stop", "skip"]


@dataclass(frozen=True)
class StreamSpec:
    """One stream of samples.

    batch: samples per rank. size: (W,H) of images and labels. indices: the samples to use, default
    all. rare_class: rare-class sampling, over the numbers 0 … len−1 of the samples used; default:
    each sample once per epoch. Raises DataError for values out of range, and if the stream needs
    labels that are missing.
    """

    dataset: Dataset | PackedDataset
    batch: int
    size: tuple[int, int]
    normalize: str | Normalization = "bgr"
    augment: Augment = field(default_factory=Augment)
    indices: tuple[int, ...] | None = None
    with_labels: bool = True
    rare_class: RareClassOrder | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or min(self.size) < 1:
            raise DataError(f"batch {self.batch} and size {self.size} must be positive")
        normalization(self.normalize)  # DataError for an unknown name
        self.augment.check(self.size)
        numbers = range(len(self.dataset)) if self.indices is None else self.indices
        if not numbers:
            raise DataError(f"{self.dataset.root}: the stream has no samples")
        if min(numbers) < 0 or max(numbers) >= len(self.dataset):
            raise DataError(f"{self.dataset.root}: indices outside 0…{len(self.dataset) - 1}")
        if self.with_labels:
            samples = self.reader()
            if self.indices is None and not samples.has_labels:
                raise DataError(
                    f"{self.dataset.root}: some images have no label, but this stream needs labels"
                )

    @property
    def how(self) -> Normalization:
        """The normalisation of its images."""
        return normalization(self.normalize)

    def reader(self) -> SampleReader:
        """The reader of its samples, with the channels that the normalisation has."""
        return open_reader(self.dataset, self.how.channels)

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def sample_at(self, seed: int, stream: str, position: int) -> int:
        """The sample at a position, as its number 0 … len−1 among those used."""
        if self.rare_class is not None:
            return self.rare_class.sample_at(seed, stream, position)
        return sample_at(seed, stream, position, len(self))


class Loader(Protocol):
    """Yields training batches. A context manager: leaving it closes the loader."""

    def batches(self, start_step: int = 0) -> Iterator[StepBatch]:
        """Endless batches, starting at a step. Raises DataError for a bad sample if not skipped."""

    def close(self) -> None:
        """End the threads. Iterators of `batches` must not be used afterwards."""

    def __enter__(self) -> "Loader": ...
    def __exit__(self, *exception: object) -> None: ...


def check_streams(streams: Mapping[str, StreamSpec], rank: int, world: int) -> None:
    """Raises ValueError for unknown stream names and for a rank outside 0…world−1."""
    if not streams or not set(streams) <= set(STREAMS):
        raise ValueError(f"streams must be among {', '.join(STREAMS)}, got {list(streams)}")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is outside 0…{world - 1}")
