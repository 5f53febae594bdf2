"""Measures data loading alone, without training: images/s, CPU time and bytes/s of each loader.

The loaders take turns, round by round, and medians are reported: if the machine slows down, it
slows all of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tabulate import tabulate

from fastass.bench.input.baselines import AdaptSegNetBaseline, PackedByHand, in_processes
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.open_loader import LOADERS, open_loader
from fastass.pipelines.loaders.pillow import PillowLoader
from fastass.pipelines.loaders.spec import Loader, StreamSpec
from fastass.pipelines.packed.dataset import PackedDataset

BASELINE = "AdaptSegNet baseline (files, Pillow, 2 processes)"
BY_HAND = "by hand (packed, Pillow, processes)"
PREFETCHED = 10  # batches that a loader may have ready when its turn comes


@dataclass(frozen=True)
class Rate:
    """The medians of one loader.

    cpu_ms: CPU time per image with its label, of all processes. bytes_per_second: of files or
    shards read. speedup: over the AdaptSegNet baseline; None where that was not measured.
    """

    loader: str
    images_per_second: float
    cpu_ms: float
    bytes_per_second: float
    speedup: float | None


@dataclass
class _Candidate:
    name: str
    batches: Iterator[Any]
    clock: Callable[[], float]
    sample_bytes: float
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


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
    """Measure every loader that can read the given data.

    files, packed: the same data set with labels, as shipped and packed; either may be None.
    size: (W,H) of training. In each of `rounds` rounds, every loader yields `batches` batches.
    progress: called with the name of the loader that is measured next.
    """
    if files is None and packed is None:
        raise DataError("bench data needs a data set: as shipped, packed, or both")
    with ExitStack() as opened:
        candidates = _candidates(files, packed, size, batch, workers, loaders, device, opened)
        for _ in range(rounds):
            for candidate in candidates:
                progress(candidate.name)
                _run(candidate, PREFETCHED, device)
                seconds, cpu = _run(candidate, batches, device)
                candidate.seconds.append(seconds / (batches * batch))
                candidate.cpu.append(cpu / (batches * batch))
        baseline = next((median(c.seconds) for c in candidates if c.name == BASELINE), None)
        return [_rate(candidate, baseline) for candidate in candidates]


def format_rates(rates: Sequence[Rate]) -> str:
    """The rates as a Markdown table."""
    heads = ("loader", "images/s", "CPU ms/image", "MB/s", "speed-up")
    cells = [
        (
            rate.loader,
            f"{rate.images_per_second:.1f}",
            f"{rate.cpu_ms:.1f}",
            f"{rate.bytes_per_second / 1e6:.1f}",
            f"{rate.speedup:.1f}×" if rate.speedup else "–",
        )
        for rate in rates
    ]
    columns = ("left", *["right"] * 4)
    return tabulate(cells, heads, tablefmt="github", disable_numparse=True, colalign=columns)


def _candidates(
    files: Dataset | None,
    packed: PackedDataset | None,
    size: tuple[int, int],
    batch: int,
    workers: int,
    loaders: Sequence[str],
    device: str,
    opened: ExitStack,
) -> list[_Candidate]:
    candidates = []
    if files is not None:
        batches, clock = in_processes(AdaptSegNetBaseline(files, size), batch, 2)
        candidates.append(_Candidate(BASELINE, batches, clock, _file_bytes(files)))
    if packed is not None and packed.size == size:
        batches, clock = in_processes(PackedByHand(packed), batch, workers)
        candidates.append(_Candidate(BY_HAND, batches, clock, _packed_bytes(packed)))
    for kind, data, sample_bytes in (
        ("files", files, _file_bytes(files) if files else 0.0),
        ("packed", packed, _packed_bytes(packed) if packed else 0.0),
    ):
        if data is None:
            continue
        streams = {"source": StreamSpec(data, batch, size)}
        for name in loaders:
            loader: Loader
            if name == "pillow":  # without its cache: a real set does not fit
                loader = PillowLoader(streams, 0, workers=workers, cache_bytes=0)
            else:
                loader = open_loader(name, streams, 0, workers=workers, device=device)
            opened.enter_context(loader)
            batches = loader.batches()
            title = f"fastass {name}, {kind}"
            candidates.append(_Candidate(title, batches, time.process_time, sample_bytes))
    return candidates


def _run(candidate: _Candidate, batches: int, device: str) -> tuple[float, float]:
    """(seconds, CPU seconds) of the next batches."""
    cpu, start = candidate.clock(), time.perf_counter()
    for _ in range(batches):
        next(candidate.batches)
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, candidate.clock() - cpu


def _rate(candidate: _Candidate, baseline: float | None) -> Rate:
    seconds = median(candidate.seconds)
    return Rate(
        candidate.name,
        1 / seconds,
        1e3 * median(candidate.cpu),
        candidate.sample_bytes / seconds,
        baseline / seconds if baseline else None,
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
