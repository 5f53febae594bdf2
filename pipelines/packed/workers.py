"""Encodes samples in worker processes and returns them in order."""

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace

import torch

from fastass.pipelines.datasets.layouts import Dataset, Sample
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.encode import encode_sample
from fastass.pipelines.packed.index import BadSample
from fastass.pipelines.packed.manifest import PackSettings
from fastass.pipelines.packed.shard_writer import EncodedSample
from fastass.pipelines.process_pool import become_worker, worker_pool

WINDOW = 8  # samples in flight per worker: hides the wait for fsync, and bounds memory

_job: tuple[Dataset, PackSettings]  # of a worker process


def encode_all(
    dataset: Dataset, samples: Sequence[Sample], settings: PackSettings, workers: int
) -> Generator[EncodedSample | BadSample, None, None]:
    """Yield the encoding of each sample, or why it is bad, in the order of `samples`.

    workers: processes, started by spawn; 1: no extra process. Raises DataError if the system kills
    a worker.
    """
    without_samples = replace(dataset, samples=())
    if workers == 1 or len(samples) < 2:
        for sample in samples:
            yield _encode(without_samples, sample, settings)
        return
    waiting: deque[Future[EncodedSample | BadSample]] = deque()
    with worker_pool(
        min(workers, len(samples)), "packing", _start_worker, (without_samples, settings)
    ) as pool:
        for sample in samples:
            waiting.append(pool.submit(_work, sample))
            if len(waiting) == WINDOW * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode(dataset: Dataset, sample: Sample, settings: PackSettings) -> EncodedSample | BadSample:
    try:
        return encode_sample(dataset, sample, settings)
    except DataError as error:
        # Paths relative to the root, so that the manifest does not depend on where the data is.
        return BadSample(sample.name, str(error).replace(f"{dataset.root}{os.sep}", ""))


def _start_worker(dataset: Dataset, settings: PackSettings) -> None:
    global _job
    _job = (dataset, settings)
    become_worker()
    torch.set_num_threads(1)


def _work(sample: Sample) -> EncodedSample | BadSample:
    return _encode(_job[0], sample, _job[1])
