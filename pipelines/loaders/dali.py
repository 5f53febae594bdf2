"""The DALI loader: threads read bytes and labels, DALI decodes and augments, torch gets the memory.

Each stream has a pipeline of its own, on its own CUDA stream. The images never pass through
Python, and the batch is DALI's own memory (DLPack), not a copy. Labels are gathered by the same
function as in the Pillow loader, hence bit-equal; images agree within one level.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders import dali_graph
from fastass.pipelines.loaders.augment import resize_label
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.pipelines.loaders.order import positions
from fastass.pipelines.loaders.spec import OnBadSample, StreamSpec, check_streams
from fastass.pipelines.loaders.stream_reader import Located, StreamReader, as_batch


class DaliLoader:
    """Batches decoded by DALI (see `streams` for use), on `device`.

    workers: threads that read, and threads of each DALI pipeline. prefetch: steps that DALI works
    ahead; as many again are read ahead. dtype: of the images, float32, float16 or bfloat16.
    A bad sample among the first `prefetch` steps is reported at once, later ones at their step.
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
        """Endless batches from a step on."""
        lanes = {name: _Lane(self, reader, start_step) for name, reader in self._readers.items()}
        error: DataError | None = None
        try:
            for lane in lanes.values():
                for _ in range(self.prefetch):
                    lane.feed()
                lane.pipe.schedule_run()  # the first call runs all that was fed
            running = self.prefetch
            while True:
                yield StepBatch(**{name: lane.take() for name, lane in lanes.items()})
                running -= 1
                try:
                    if error is None:
                        for lane in lanes.values():
                            lane.feed()
                except DataError as late:  # of a step to come
                    error = late
                if error is None:
                    for lane in lanes.values():
                        lane.pipe.schedule_run()
                    running += 1
                elif not running:
                    raise error
        finally:
            for lane in lanes.values():
                lane.cancel()

    def close(self) -> None:
        """Ends the threads; waits for the sample that each is reading."""
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


class _Lane:
    """One stream: batches being read, then batches that DALI works on."""

    def __init__(self, feed: DaliLoader, reader: StreamReader, start_step: int) -> None:
        self.owner, self.reader, self.spec = feed, reader, reader.spec
        self.pipe = dali_graph.build(
            reader.spec, feed.workers, feed.prefetch, feed.device, feed.dtype
        )
        self._step = start_step
        self._reading: deque[tuple[torch.Tensor | None, list[Future[_Sample]]]] = deque()
        self._running: deque[tuple[torch.Tensor | None, list[_Sample]]] = deque()
        for _ in range(2 * feed.prefetch):
            self._submit()

    def feed(self) -> None:
        """Hands the next batch that was read to DALI. Raises DataError of its samples."""
        labels, futures = self._reading.popleft()
        samples = [future.result() for future in futures]
        on_gpu = labels is not None and self.owner.device.type == "cuda"
        dali_graph.feed(
            self.pipe, self.spec, [s.input for s in samples], labels if on_gpu else None
        )
        self._running.append((labels, samples))
        self._submit()

    def take(self) -> Batch:
        """The next batch that DALI has finished."""
        labels, samples = self._running.popleft()
        cuda = self.owner.device.type == "cuda"
        try:
            outputs = self.pipe.outputs(
                torch.cuda.current_stream(self.owner.device) if cuda else None
            )
        except RuntimeError as error:
            raise self._diagnosis(samples, error) from error
        images = torch.from_dlpack(outputs[0].as_tensor())
        if images.dtype != self.owner.dtype:
            images = images.to(self.owner.dtype)
        if cuda and labels is not None:
            labels = torch.from_dlpack(outputs[1].as_tensor())
        return as_batch(images.permute(0, 3, 1, 2), labels, [s.located for s in samples])

    def cancel(self) -> None:
        for _, futures in self._reading:
            for future in futures:
                future.cancel()

    def _submit(self) -> None:
        spec, owner = self.spec, self.owner
        labels = None
        if spec.with_labels:
            labels = torch.empty((spec.batch, spec.size[1], spec.size[0]), dtype=torch.uint8)
        where = positions(self._step, spec.batch, owner.rank, owner.world)
        futures = [owner._pool.submit(self._read, p, i, labels) for i, p in enumerate(where)]
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
        source = self.reader.source
        encoded, size = source.encoded(i), source.size(i)
        return i, encoded, size, source.label(i, size) if self.spec.with_labels else None

    def _diagnosis(self, samples: list[_Sample], error: RuntimeError) -> DataError:
        """Which file DALI failed on: it does not say so itself."""
        for sample in samples:
            try:
                self.reader.source.image(sample.number)
            except DataError as found:
                return found
        reason = next((s for s in str(error).splitlines() if "rror" in s), str(error)).strip()
        names = ", ".join(s.located.name for s in samples)
        return DataError(f"{self.spec.dataset.root}: DALI cannot decode one of {names}: {reason}")
