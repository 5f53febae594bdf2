"""Opens a training loader by name."""

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
    """Open the loader of `streams` (see `fastass.pipelines.loaders.spec`).

    loader: `pillow` yields batches in host memory (page-locked if `device` is a GPU); `dali` yields
    them on the device. device: `cpu` or `cuda:N`, where the batches are used.
    Raises ValueError for an unknown loader, and DataError if DALI is not installed.
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
                f"loader dali: {error}; pip install nvidia-dali-cuda130, or use --loader pillow"
            ) from error
        return DaliLoader(
            streams, seed, rank, world, workers, on_bad_sample=on_bad_sample, device=device
        )
    raise ValueError(f"loader {loader!r} is unknown; choose one of {', '.join(LOADERS)}")
