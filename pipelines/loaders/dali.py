"""The DALI loader: threads read files and labels, DALI decodes and augments the images.

Each stream has its own DALI pipeline on its own CUDA stream. Decoded images never pass through
Python: the batch is DALI's own memory (shared by DLPack), not a copy. Labels are resized by the
same function as in the Pillow loader, so they are bit-equal; images agree within one level.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders import dali_graph
from fastass.pipelines.loaders.augment import resize_label
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.pipelines.loaders.order import positions
from fastass.pipelines.loaders.spec import OnBadSample, StreamSpec, check_streams
from fastass.pipelines.loaders.stream_reader import Located, StreamReader, as_batch


class DaliLoader:
    """Batches decoded by DALI, on `device` (see `spec` for use).

    workers: threads that read files, and also threads per DALI pipeline. prefetch: steps that DALI
    prepares in advance; as many again are read in advance. dtype: of the images, float32, float16
    or bfloat16. A bad sample in the first `prefetch` steps is reported at once, later ones at
    their step.
    """

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        *,
        prefetch: int = 2,
        on_bad_sample: OnBadSample = "stop",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        check_streams(streams, rank, world)
        self.rank, self.world = rank, world
        self.workers, self.prefetch = max(1, workers), max(1, prefetch)
        self.device, self.dtype = torch.device(device), dtype
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._readers = {
            name: StreamReader(name, spec, seed, on_bad_sample) for name, spec in streams.items()
        }
        self._pool = ThreadPoolExecutor(self.workers, "fastass-dali")

    def batches(self, start_step: int = 0) -> Iterator[StepBatch]:
        """Endless batches, starting at a step."""
        pipelines = {
            name: _StreamPipeline(self, reader, start_step)
            for name, reader in self._readers.items()
        }
        error: DataError | None = None
        try:
            for pipeline in pipelines.values():
                for _ in range(self.prefetch):
                    pipeline.feed()
                pipeline.pipe.schedule_run()  # the first call runs everything fed so far
            running = self.prefetch
            while True:
                yield StepBatch(**{name: p.take() for name, p in pipelines.items()})
                running -= 1
                try:
                    if error is None:
                        for pipeline in pipelines.values():
                            pipeline.feed()
                except DataError as late:  # belongs to a later step
                    error = late
                if error is None:
                    for pipeline in pipelines.values():
                        pipeline.pipe.schedule_run()
                    running += 1
                elif not running:
                    raise error
        finally:
            for pipeline in pipelines.values():
                pipeline.cancel()

    def close(self) -> None:
        """End the threads, after each has finished its current sample."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "DaliLoader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Sample:
    number: int
    located: Located
    input: dali_graph.GraphInput


class _StreamPipeline:
    """One stream: batches that threads are reading, then batches that DALI is working on."""

    def __init__(self, loader: DaliLoader, reader: StreamReader, start_step: int) -> None:
        self.loader, self.reader, self.spec = loader, reader, reader.spec
        self.pipe = dali_graph.build(
            reader.spec, loader.workers, loader.prefetch, loader.device, loader.dtype
        )
        self._step = start_step
        self._reading: deque[tuple[torch.Tensor | None, list[Future[_Sample]]]] = deque()
        self._running: deque[tuple[torch.Tensor | None, list[_Sample]]] = deque()
        for _ in range(2 * loader.prefetch):
            self._submit()

    def feed(self) -> None:
        """Pass the next batch that was read to DALI. Raises the DataError of a bad sample."""
        labels, futures = self._reading.popleft()
        samples = [future.result() for future in futures]
        on_gpu = labels is not None and self.loader.device.type == "cuda"
        dali_graph.feed(
            self.pipe, self.spec, [s.input for s in samples], labels if on_gpu else None
        )
        self._running.append((labels, samples))
        self._submit()

    def take(self) -> Batch:
        """Wait for the next batch from DALI."""
        labels, samples = self._running.popleft()
        cuda = self.loader.device.type == "cuda"
        try:
            outputs = self.pipe.outputs(
                torch.cuda.current_stream(self.loader.device) if cuda else None
            )
        except RuntimeError as error:
            raise self._diagnosis(samples, error) from error
        images = from_dlpack(outputs[0].as_tensor())
        if images.dtype != self.loader.dtype:
            images = images.to(self.loader.dtype)
        if cuda and labels is not None:
            labels = from_dlpack(outputs[1].as_tensor())
        return as_batch(images.permute(0, 3, 1, 2), labels, [s.located for s in samples])

    def cancel(self) -> None:
        for _, futures in self._reading:
            for future in futures:
                future.cancel()

    def _submit(self) -> None:
        spec, loader = self.spec, self.loader
        labels = None
        if spec.with_labels:
            labels = torch.empty((spec.batch, spec.size[1], spec.size[0]), dtype=torch.uint8)
        where = positions(self._step, spec.batch, loader.rank, loader.world)
        futures = [loader._pool.submit(self._read, p, i, labels) for i, p in enumerate(where)]
        self._reading.append((labels, futures))
        self._step += 1

    def _read(self, position: int, i: int, labels: torch.Tensor | None) -> _Sample:
        located, (number, encoded, size, label) = self.reader.read(position, self._load)
        if labels is not None:
            assert label is not None
            labels[i].numpy()[...] = resize_label(label, located.params, self.spec.size)
        image = dali_graph.GraphInput(encoded, size, located.params)
        return _Sample(number, located, image)

    def _load(self, i: int) -> tuple[int, np.ndarray, tuple[int, int], np.ndarray | None]:
        samples = self.reader.samples
        encoded, size = samples.encoded(i), samples.size(i)
        return i, encoded, size, samples.label(i, size) if self.spec.with_labels else None

    def _diagnosis(self, samples: list[_Sample], error: RuntimeError) -> DataError:
        """Finds the file that DALI failed on; DALI does not name it."""
        for sample in samples:
            try:
                self.reader.samples.image(sample.number)
            except DataError as damage:
                return damage
        reason = next((s for s in str(error).splitlines() if "rror" in s), str(error)).strip()
        names = ", ".join(s.located.name for s in samples)
        return DataError(f"{self.spec.dataset.root}: DALI cannot decode one of {names}: {reason}")
