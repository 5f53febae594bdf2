"""Measures the input alone: images/s, CPU time and bytes/s of each loader, nothing is trained.

The loaders take turns round by round and medians are reported, so that a machine that slows down
slows all of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fastass.bench.input.baselines import BaseCodeWay, PackedByHand, in_processes
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.open_loader import LOADERS, open_loader
from fastass.pipelines.loaders.pillow import PillowLoader
from fastass.pipelines.loaders.spec import Loader, StreamSpec
from fastass.pipelines.packed.dataset import PackedDataset

BASE = "base code (files, Pillow, 2 processes)"
BY_HAND = "by hand (packed, Pillow, processes)"
PREFETCHED = 10  # batches that a loader may have ready when its turn comes


@dataclass(frozen=True)
class Rate:
    """The medians of one loader.

    cpu_ms: CPU time of an image and its label, all processes. bytes_per_second: of files or shards
    read. speedup: over the base code's way; None where that was not measured.
    """

    loader: str
    images_per_second: float
    cpu_ms: float
    bytes_per_second: float
    speedup: float | None


@dataclass
class _Contender:
    name: str
    batches: Iterator[Any]
    clock: Callable[[], float]
    sample_bytes: float
    seconds: list[float]
    cpu: list[float]


def measure(
    files: Dataset | None,
    packed: PackedDataset | None,
    size: tuple[int, int],
    *,
    batch: int = 4,
    workers: int = 2,
    loaders: Sequence[str] = LOADERS,
    rounds: int = 5,
    batches: int = 12,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda name: None,
) -> list[Rate]:
    """The rates of all loaders that the given data allow.

    files, packed: the same data set with labels, as shipped and packed; either may be None.
    size: (W,H) that is trained at. Each of the `rounds` takes `batches` batches of every loader.
    progress: called with the name of the loader that is measured next.
    """
    if files is None and packed is None:
        raise DataError("bench data needs a data set: as shipped, packed, or both")
    with ExitStack() as feeds:
        candidates = _contenders(files, packed, size, batch, workers, loaders, device, feeds)
        for _ in range(rounds):
            for one in candidates:
                progress(one.name)
                _run(one, PREFETCHED, device)
                seconds, cpu = _run(one, batches, device)
                one.seconds.append(seconds / (batches * batch))
                one.cpu.append(cpu / (batches * batch))
        base = next((median(one.seconds) for one in candidates if one.name == BASE), None)
        return [_rate(one, base) for one in candidates]


def format_rates(rates: Sequence[Rate]) -> list[str]:
    """The lines of a table."""
    width = max(len("loader"), *(len(rate.loader) for rate in rates))
    lines = [f"{'loader':<{width}}  images/s  CPU ms/image    MB/s  speed-up"]
    for rate in rates:
        speedup = f"{rate.speedup:.1f}×" if rate.speedup else "–"
        lines.append(
            f"{rate.loader:<{width}}  {rate.images_per_second:8.1f}  {rate.cpu_ms:12.1f}  "
            f"{rate.bytes_per_second / 1e6:6.1f}  {speedup:>8}"
        )
    return lines


def _contenders(
    files: Dataset | None,
    packed: PackedDataset | None,
    size: tuple[int, int],
    batch: int,
    workers: int,
    loaders: Sequence[str],
    device: str,
    feeds: ExitStack,
) -> list[_Contender]:
    found = []
    if files is not None:
        base = in_processes(BaseCodeWay(files, size), batch, 2)
        found.append(_Contender(BASE, *base, _file_bytes(files), [], []))
    if packed is not None and packed.size == size:
        hand = in_processes(PackedByHand(packed), batch, workers)
        found.append(_Contender(BY_HAND, *hand, _packed_bytes(packed), [], []))
    for kind, data, weight in (
        ("files", files, _file_bytes(files) if files else 0.0),
        ("packed", packed, _packed_bytes(packed) if packed else 0.0),
    ):
        if data is None:
            continue
        streams = {"source": StreamSpec(data, batch, size)}
        for loader in loaders:
            feed: Loader
            if loader == "pillow":  # without its cache: a real set does not fit
                feed = PillowLoader(streams, 0, workers=workers, cache_bytes=0)
            else:
                feed = open_loader(loader, streams, 0, workers=workers, device=device)
            feeds.enter_context(feed)
            name = f"fastass {loader}, {kind}"
            found.append(_Contender(name, feed.batches(), time.process_time, weight, [], []))
    return found


def _run(one: _Contender, batches: int, device: str) -> tuple[float, float]:
    """(seconds, CPU seconds) of the next batches."""
    cpu, start = one.clock(), time.perf_counter()
    for _ in range(batches):
        next(one.batches)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, one.clock() - cpu


def _rate(one: _Contender, base: float | None) -> Rate:
    seconds = median(one.seconds)
    return Rate(
        one.name,
        1 / seconds,
        1e3 * median(one.cpu),
        one.sample_bytes / seconds,
        base / seconds if base else None,
    )


def _file_bytes(dataset: Dataset) -> float:
    sizes = [
        path.stat().st_size
        for s in dataset.samples
        for path in (s.image, s.label)
        if isinstance(path, Path)
    ]
    return sum(sizes) / len(dataset)


def _packed_bytes(dataset: PackedDataset) -> float:
    members = [m for _, record in dataset.locations for m in (record.image, record.label) if m]
    return sum(member.size for member in members) / len(dataset)
