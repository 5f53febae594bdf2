"""Packs a data set: resizes and encodes each sample once, into shards that are fast to read.

The on-disk format is described in `fastass.pipelines.packed.dataset`. Workers encode
samples and the calling process writes them in order, so the bytes do not depend on the number of
workers. A shard is finished once its index is durable. After a kill, the same call continues: it
checks and keeps finished shards and writes the others again. The manifest is written last.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fastass.pipelines.datasets.files import File
from fastass.pipelines.datasets.layouts import Dataset, Sample
from fastass.pipelines.datasets.zip_files import ZipMember
from fastass.pipelines.durable import PART, write_durably
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.check_shard import check_shard
from fastass.pipelines.packed.encode import encoder_settings
from fastass.pipelines.packed.files import check_index, read_file
from fastass.pipelines.packed.index import BadSample, ShardIndex, digest, index_name, shard_name
from fastass.pipelines.packed.lock import claim, release
from fastass.pipelines.packed.manifest import MANIFEST, Manifest, PackSettings
from fastass.pipelines.packed.shard_writer import (
    IMAGE_SUFFIX,
    LABEL_SUFFIX,
    EncodedSample,
    ShardWriter,
    dali_index,
    record_key,
)
from fastass.pipelines.packed.workers import encode_all
from fastass.pipelines.process_pool import cores

BAD_LIMIT = 20  # with `on_bad_sample="stop"`, packing ends after this many bad samples


@dataclass(frozen=True)
class PackReport:
    """The result of `pack`.

    written: samples packed now; kept: samples packed by an earlier call. bad: samples that cannot
    be packed, with reasons. unseen: samples that were not tried. complete: the directory is
    finished and can be read; otherwise repair the bad samples and pack again.
    """

    written: int
    kept: int
    bad: tuple[BadSample, ...]
    unseen: int
    complete: bool


def pack(
    dataset: Dataset,
    out: Path | str,
    size: tuple[int, int],
    *,
    image: str = "jpeg",
    label: str = "raw",
    quality: int = 95,
    workers: int | None = None,
    on_bad_sample: str = "stop",
    records_per_shard: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack `dataset` into the directory `out`; or finish, check or repair what is packed there.

    size: (W,H) of the packed images (bicubic) and labels (nearest). image: "jpeg" (4:4:4, of
    `quality`) or "png" (lossless). label: "raw" or "png". workers: processes; None: one per core.
    on_bad_sample: "stop" packs the shards without bad samples, lists the bad ones and leaves the
    directory unfinished; "skip" leaves bad samples out and lists them in the manifest.
    progress: called with (samples done, samples).

    Raises DataError for wrong arguments; if `out` holds something else, was packed with other
    settings, or another process is packing into it; if every sample is damaged; and if the disk
    cannot be written.
    """
    _check_arguments(size, image, label, quality, workers, on_bad_sample, records_per_shard)
    settings = PackSettings(
        layout=dataset.layout,
        split=dataset.split,
        classes=dataset.classes,
        size=size,
        image=image,
        label=label if any(sample.label for sample in dataset.samples) else None,
        encoder=encoder_settings(image, quality),
        records_per_shard=records_per_shard,
    )
    processes = workers or cores()
    try:
        with claim(Path(out), settings) as mark:
            job = _Packing(dataset, Path(out), settings, on_bad_sample == "skip", progress)
            report = job.run(processes)
            if report.complete:
                release(mark)
            return report
    except OSError as error:
        raise DataError(
            f"{error.filename or out}: {error.strerror}; correct this and run the same "
            "command again"
        ) from error


class _Packing:
    """One call of `pack`. chunks[i]: the samples of shard i; indices[i]: its index, if finished."""

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        settings: PackSettings,
        skip: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.dataset, self.out, self.settings, self.skip = dataset, out, settings, skip
        self.digest = digest(settings.to_json())
        step = settings.records_per_shard
        samples = dataset.samples
        self.chunks = [samples[at : at + step] for at in range(0, len(samples), step)]
        self.indices: dict[int, ShardIndex] = {}
        self.bad: list[BadSample] = []
        self.done = 0
        self._progress = progress

    def run(self, workers: int) -> PackReport:
        for number in range(len(self.chunks)):
            self._keep(number)
        kept = sum(len(index.records) for index in self.indices.values())
        missing = [n for n in range(len(self.chunks)) if n not in self.indices]
        samples = [sample for number in missing for sample in self.chunks[number]]
        with closing(encode_all(self.dataset, samples, self.settings, workers)) as encoded:
            for number in missing:
                self._write(number, encoded)
                if not self.skip and len(self.bad) >= BAD_LIMIT:
                    break
        complete = len(self.indices) == len(self.chunks)
        records = sum(len(index.records) for index in self.indices.values())
        if complete and not records:
            raise DataError(
                f"{self.out}: no good sample: all {len(self.bad)} are damaged; "
                f"{self.bad[0].name}: {self.bad[0].reason}"
            )
        if complete:
            self._finish()
        written = records - kept
        return PackReport(written, kept, tuple(self.bad), len(self.dataset) - self.done, complete)

    def _keep(self, number: int) -> None:
        """Keep a shard that an earlier call finished, if it is still correct."""
        path = self.out / index_name(number)
        try:
            index = ShardIndex.decode(read_file(path, ""), path, shard_name(number))
            check_index(index, self.settings, path)
        except DataError:
            return
        chunk = self.chunks[number]
        same = (index.settings, index.source) == (self.digest, source_digest(chunk))
        if not same or (index.bad and not self.skip):
            return
        if max(map(_modified, chunk)) > path.stat().st_mtime_ns:
            return
        if any(check_shard(self.out, index, self.settings)):
            return
        self.indices[number] = index
        self.bad += index.bad
        self._advance(len(chunk))

    def _write(self, number: int, encoded: Iterator[EncodedSample | BadSample]) -> None:
        """Write one shard, unless it has a bad sample and bad samples are not skipped."""
        chunk = self.chunks[number]
        first = number * self.settings.records_per_shard
        bad: list[BadSample] = []
        with ShardWriter(self.out / shard_name(number), self.settings) as shard:
            for at, sample in enumerate(chunk):
                result = next(encoded)
                self._advance(1)
                if isinstance(result, BadSample):
                    bad.append(result)
                    continue
                shard.add(record_key(first + at, sample.name), sample.name, result)
            self.bad += bad
            if bad and not self.skip:
                return
            size = shard.finish()
        histograms = [r.histogram for r in shard.records if r.histogram is not None]
        nothing = (0,) * (len(self.dataset.classes) + 1)
        *class_pixels, ignored_pixels = map(sum, zip(nothing, *histograms, strict=True))
        index = ShardIndex(
            shard=shard_name(number),
            size=size,
            settings=self.digest,
            source=source_digest(chunk),
            class_pixels=tuple(class_pixels),
            ignored_pixels=ignored_pixels,
            bad=tuple(bad),
            records=tuple(shard.records),
        )
        write_durably(shard.path.with_suffix(".idx"), dali_index(index, self.settings))
        write_durably(self.out / index_name(number), index.encode())
        self.indices[number] = index

    def _finish(self) -> None:
        """Remove shards that no longer belong to the data set, and write the manifest."""
        stems = {Path(shard_name(number)).stem for number in self.indices}
        for path in self.out.glob("shard-*"):
            if path.stem not in stems or path.suffix == PART:
                path.unlink()
        indices = [self.indices[number] for number in range(len(self.chunks))]
        manifest = Manifest.summarise(self.settings, indices)
        write_durably(self.out / MANIFEST, manifest.encode())

    def _advance(self, samples: int) -> None:
        self.done += samples
        if self._progress is not None:
            self._progress(self.done, len(self.dataset))


def source_digest(samples: Sequence[Sample]) -> str:
    """SHA-256 of the samples' names and the sizes of their files; a missing file has size −1."""
    return digest([(s.name, *(_size(path) for path in _files(s))) for s in samples])


def _files(sample: Sample) -> tuple[File, ...]:
    return tuple(path for path in (sample.image, sample.label) if path is not None)


def _size(path: File) -> int:
    if isinstance(path, ZipMember):
        return path.size
    return path.stat().st_size if path.exists() else -1


def _modified(sample: Sample) -> int:
    return max(map(_modified_ns, _files(sample)))


def _modified_ns(path: File) -> int:
    if isinstance(path, ZipMember):
        return path.modified_ns
    return path.stat().st_mtime_ns if path.exists() else 0


def _check_arguments(
    size: tuple[int, int],
    image: str,
    label: str,
    quality: int,
    workers: int | None,
    on_bad_sample: str,
    records_per_shard: int,
) -> None:
    """Raise DataError for the first argument that is out of range."""
    for name, value, known in (
        ("image", image, tuple(IMAGE_SUFFIX)),
        ("label", label, tuple(LABEL_SUFFIX)),
        ("on_bad_sample", on_bad_sample, ("stop", "skip")),
    ):
        if value not in known:
            raise DataError(f"{name} {value!r} is unknown; choose one of {', '.join(known)}")
    for name, number, low, high in (
        ("width", size[0], 1, 16384),
        ("height", size[1], 1, 16384),
        ("quality", quality, 1, 100),
        ("workers", 1 if workers is None else workers, 1, 1024),
        ("records_per_shard", records_per_shard, 1, 100_000),
    ):
        if not low <= number <= high:
            raise DataError(f"{name} {number} is out of range: {low} … {high}")
