"""Opens a training feed by the name of its loader."""

from collections.abc import Mapping

from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.pillow import PillowLoader
from fastass.pipelines.loaders.spec import Loader, OnBadSample, StreamSpec

LOADERS = ("pillow", "dali")


def open_loader(
    loader: str,
    streams: Mapping[str, StreamSpec],
    seed: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 2,
    *,
    on_bad_sample: OnBadSample = "stop",
    device: str = "cpu",
) -> Loader:
    """A feed of `streams` (see `fastass.pipelines.loaders.spec`).

    loader: `pillow` gives batches in host memory (page-locked for a CUDA device); `dali` gives them
    on the device. device: `cpu` or `cuda:N`, where the batches are wanted.
    Raises ValueError for an unknown loader, DataError for data that cannot be.
    """
    if loader == "pillow":
        return PillowLoader(
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
            from fastass.pipelines.loaders.dali import DaliLoader
        except ImportError as error:
            raise DataError(
                f"loader dali: {error}; pip install 'fastass[dali]', or use --loader pillow"
            ) from error
        return DaliLoader(
            streams, seed, rank, world, workers, on_bad_sample=on_bad_sample, device=device
        )
    raise ValueError(f"loader {loader!r} is unknown; choose one of {', '.join(LOADERS)}")
