"""Opens a training feed by the name of its loader."""

from collections.abc import Mapping

from fastass.pipelines.errors import DataError
from fastass.pipelines.pillow import PillowFeed
from fastass.pipelines.streams import Feed, OnBadSample, StreamSpec

LOADERS = ("pillow", "dali")


def open_feed(
    loader: str,
    streams: Mapping[str, StreamSpec],
    seed: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
    *,
    on_bad_sample: OnBadSample = "stop",
    device: str = "cpu",
) -> Feed:
    """A feed of `streams` (see `fastass.pipelines.streams`).

    loader: `pillow` gives batches in host memory (page-locked for a CUDA device); `dali` gives them
    on the device. device: `cpu` or `cuda:N`, where the batches are wanted.
    Raises ValueError for an unknown loader, DataError for data that cannot be.
    """
    if loader == "pillow":
        return PillowFeed(
            streams,
            seed,
            rank,
            world,
            workers,
            on_bad_sample=on_bad_sample,
            pin_memory=device.startswith("cuda"),
        )
    if loader == "dali":
        try:
            from fastass.pipelines.dali import DaliFeed
        except ImportError as error:
            raise DataError(
                f"loader dali: {error}; pip install 'fastass[dali]', or use --loader pillow"
            ) from error
        return DaliFeed(
            streams, seed, rank, world, workers, on_bad_sample=on_bad_sample, device=device
        )
    raise ValueError(f"loader {loader!r} is unknown; choose one of {', '.join(LOADERS)}")
