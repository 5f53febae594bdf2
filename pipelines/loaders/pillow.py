"""The Pillow loader: threads decode, augment and normalise samples straight into the batch.

It uses threads rather than processes: Pillow and zlib release the GIL (two threads decode 1.9×
faster than one), nothing is pickled or forked, and all threads share one cache.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from fastass.pipelines.datasets.bands import AnyImage, Bands
from fastass.pipelines.loaders.augment import AugmentParams, placement, region_box, resize_label
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.pipelines.loaders.normalization import Normalization
from fastass.pipelines.loaders.order import positions
from fastass.pipelines.loaders.spec import OnBadSample, StreamSpec, check_streams
from fastass.pipelines.loaders.stream_reader import Located, StreamReader, as_batch, decoded_bytes

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT
BICUBIC = Image.Resampling.BICUBIC

Where = Callable[[StreamSpec], range]  # the positions of a stream that a batch takes


class PillowLoader:
    """Batches decoded by Pillow (see `spec` for use).

    workers: threads; 0 reads in the calling thread. prefetch: steps prepared in advance.
    cache_bytes: memory for decoded samples; streams that fit, smallest first, are decoded only
    once. pin_memory: use page-locked memory, for asynchronous copies to a GPU.
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
        cache_bytes: int = 512 << 20,
        pin_memory: bool = False,
    ) -> None:
        check_streams(streams, rank, world)
        self.rank, self.world = rank, world
        self.workers, self.prefetch = workers, max(1, prefetch)
        self.pin_memory = pin_memory
        self._readers: dict[str, StreamReader] = {}
        self._pool = ThreadPoolExecutor(workers, "fastass-loader") if workers else None
        for need, name in sorted((decoded_bytes(spec), name) for name, spec in streams.items()):
            cached = need <= cache_bytes
            cache_bytes -= need if cached else 0
            self._readers[name] = StreamReader(name, streams[name], seed, on_bad_sample, cached)

    def batches(self, start_step: int = 0) -> Iterator[StepBatch]:
        """Endless batches, starting at a step."""

        def at(step: int) -> Where:
            return lambda spec: positions(step, spec.batch, self.rank, self.world)

        return self._batches(map(at, itertools.count(start_step)))

    def batches_at(self, parts: Iterable[range]) -> Iterator[StepBatch]:
        """A batch of every stream for each range of positions, whatever rank and world are."""

        def at(part: range) -> Where:
            return lambda spec: part

        return self._batches(map(at, parts))

    def _batches(self, wheres: Iterator[Where]) -> Iterator[StepBatch]:
        readers = self._readers.items()
        if self._pool is None:
            for where in wheres:
                yield StepBatch(**{n: self._read(r, where(r.spec)) for n, r in readers})
            return
        pending: deque[dict[str, _Pending]] = deque()
        try:
            while True:
                for where in itertools.islice(wheres, self.prefetch - len(pending)):
                    pending.append({n: self._submit(r, where(r.spec)) for n, r in readers})
                if not pending:
                    return
                ready = pending.popleft()
                yield StepBatch(**{name: batch.result() for name, batch in ready.items()})
        finally:
            for batch in (batch for step_ in pending for batch in step_.values()):
                batch.cancel()

    def close(self) -> None:
        """End the threads, after each has finished its current sample."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "PillowLoader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _allocate(self, spec: StreamSpec, batch: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        width, height = spec.size
        shape = (batch, height, width)
        images = torch.empty(
            (*shape, spec.how.channels), dtype=torch.float32, pin_memory=self.pin_memory
        )
        if not spec.with_labels:
            return images, None
        return images, torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin_memory)

    def _read(self, reader: StreamReader, where: range) -> Batch:
        images, labels = self._allocate(reader.spec, len(where))
        return as_batch(
            images.permute(0, 3, 1, 2),
            labels,
            [fill(reader, p, i, images, labels) for i, p in enumerate(where)],
        )

    def _submit(self, reader: StreamReader, where: range) -> "_Pending":
        assert self._pool is not None
        images, labels = self._allocate(reader.spec, len(where))
        return _Pending(
            images,
            labels,
            [self._pool.submit(fill, reader, p, i, images, labels) for i, p in enumerate(where)],
        )


class _Pending:
    """A batch that threads are filling."""

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor | None,
        samples: "list[Future[Located]]",
    ) -> None:
        self.images, self.labels, self.samples = images, labels, samples

    def result(self) -> Batch:
        return as_batch(
            self.images.permute(0, 3, 1, 2),
            self.labels,
            [sample.result() for sample in self.samples],
        )

    def cancel(self) -> None:
        for sample in self.samples:
            sample.cancel()


def fill(
    reader: StreamReader,
    position: int,
    i: int,
    images: torch.Tensor,
    labels: torch.Tensor | None,
) -> Located:
    """Read the sample of a position into entry i of images [B,H,W,N] and labels [B,H,W]."""
    located, (image, label) = reader.read(position, reader.decode)
    spec = reader.spec
    left, top, width, height = placement(located.params, spec.size)
    image = augment_image(image, located.params, (width, height))
    how, out = spec.how, images[i].numpy()
    if (width, height) == spec.size:
        normalize(image, how, out)
    else:
        inside = np.empty((height, width, how.channels), np.float32)
        normalize(image, how, inside)
        out[...] = 0
        out[top : top + height, left : left + width] = inside
    if labels is not None:
        assert label is not None
        labels[i].numpy()[...] = resize_label(label, located.params, spec.size)
    return located


def augment_image(image: AnyImage, params: AugmentParams, size: tuple[int, int]) -> AnyImage:
    """Apply `params` to an image, but for the padding; the result has `size` (W,H).

    Colours change in the first three channels alone.
    """
    if isinstance(image, Bands):
        plain = replace(params, color=None)
        others = tuple(_augment_plain(band, plain, size) for band in image.others)
        return Bands(_augment_plain(image.rgb, params, size), others)
    return _augment_plain(image, params, size)


def _augment_plain(image: Image.Image, params: AugmentParams, size: tuple[int, int]) -> Image.Image:
    if params.region is not None:
        image = image.resize(size, BICUBIC, box=region_box(params, image.size))
    elif image.size != size:
        image = image.resize(size, BICUBIC)
    if params.mirror:
        image = image.transpose(MIRROR)
    if params.color is not None:
        image = image.convert("RGB", params.color)
    if params.sigma > 0:
        image = Image.fromarray(blur(np.asarray(image), params.sigma))
    return image


def blur(levels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of uint8 [H,W,3] or [H,W], cut off at 3 sigma, with reflected edges.

    Pillow's own blur (three box filters, repeated edges) differs from DALI's by up to 19 levels.
    """
    reach = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / np.float32(sigma)) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    pixels = levels.astype(np.float32)
    for axis in (0, 1):
        margin = [(0, 0)] * pixels.ndim
        margin[axis] = (reach, reach)
        padded = np.pad(pixels, margin, "reflect" if pixels.shape[axis] > reach else "symmetric")
        count = pixels.shape[axis]
        pixels = np.zeros_like(pixels)
        for i, tap in enumerate(taps):
            pixels += tap * padded[(slice(None),) * axis + (slice(i, i + count),)]
    blurred: np.ndarray = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return blurred


def normalize(image: AnyImage, how: Normalization, out: np.ndarray) -> None:
    """Normalise an image of N channels into `out`, float32 [H,W,N]."""
    height, width, _ = out.shape
    if isinstance(image, Bands):
        colors = np.empty((height, width, 3), np.float32)
        normalize(image.rgb, how.colors, colors)
        out[:, :, :3] = colors
        for i, band in enumerate(image.others, start=3):
            out[:, :, i] = (np.asarray(band, np.float32) - how.mean[i]) * how.scale[i]
        return
    levels = np.frombuffer(image.tobytes("raw", how.order), np.uint8).reshape(height, width * 3)
    # Mean and scale as whole rows make the inner loop long: 8× faster than with shape [3].
    mean, scale = _rows(how, width)
    flat = out.reshape(height, width * 3)
    np.subtract(levels, mean, out=flat)
    if scale is not None:
        np.multiply(flat, scale, out=flat)


@lru_cache(maxsize=16)
def _rows(how: Normalization, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    mean = np.tile(np.array(how.mean, np.float32), width)
    plain = how.scale == (1.0, 1.0, 1.0)
    return mean, None if plain else np.tile(np.array(how.scale, np.float32), width)
