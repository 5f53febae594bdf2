"""Checks a whole packed directory and lists all damage."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.check_shard import Damage, check_shard, reason
from fastass.pipelines.packed.dataset import PackedDataset
from fastass.pipelines.packed.files import read_index, read_manifest
from fastass.pipelines.packed.index import ShardIndex, index_name, shard_name
from fastass.pipelines.packed.manifest import MANIFEST, Manifest
from fastass.pipelines.process_pool import worker_pool


@dataclass(frozen=True)
class VerifyReport:
    """The result of `verify`. The directory is intact if `damages` is empty."""

    shards: int
    records: int
    damages: tuple[Damage, ...]


def verify(
    root: Path | str, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Check a whole packed directory: indexes, tar headers, checksums, pixels, class counts.

    workers: processes. progress: called with (shards done, shards). Raises DataError if
    there is no manifest to check against (nothing is packed, or it is still being written, or the
    manifest is damaged or of another version), and if the system kills a worker.
    """
    root = Path(root)
    manifest = read_manifest(root)
    numbers = range(len(manifest.shards))
    damages = _unlisted(root, manifest)
    indices: list[ShardIndex] = []
    job = partial(_verify_shard, root, manifest)
    workers = min(workers, len(numbers))
    with ExitStack() as stack:
        if workers > 1:
            results = stack.enter_context(worker_pool(workers, "verifying")).map(job, numbers)
        else:
            results = map(job, numbers)
        for number, (index, shard_damages) in enumerate(results):
            damages += shard_damages
            if index is not None:
                indices.append(index)
            if progress is not None:
                progress(number + 1, len(numbers))
    if len(indices) == len(numbers) and Manifest.summarise(manifest.settings, indices) != manifest:
        damages.append(Damage(MANIFEST, "", "its counts are not the sums over the indexes"))
    return VerifyReport(len(numbers), sum(len(i.records) for i in indices), tuple(damages))


def _unlisted(root: Path, manifest: Manifest) -> list[Damage]:
    known = {name(i) for i in range(len(manifest.shards)) for name in (shard_name, index_name)}
    present = {path.name for suffix in ("tar", "json") for path in root.glob(f"shard-*.{suffix}")}
    return [Damage(name, "", "is not in the manifest") for name in sorted(present - known)]


def _verify_shard(
    root: Path, manifest: Manifest, number: int
) -> tuple[ShardIndex | None, list[Damage]]:
    try:
        index = read_index(root, number, manifest)
    except DataError as error:
        path = root / index_name(number)
        return None, [Damage(path.name, "", reason(error, path))]
    damages = list(check_shard(root, index, manifest.settings))
    broken = {damage.record for damage in damages if damage.file == index.shard}
    if "" not in broken:  # the file can be mapped whole
        damages += _check_pixels(root, manifest, number, index, broken)
    return index, damages


def _check_pixels(
    root: Path, manifest: Manifest, number: int, index: ShardIndex, broken: set[str]
) -> list[Damage]:
    """Decode the records with correct checksums: they may have been written wrong."""
    damages = []
    classes = manifest.settings.classes
    records = [record for record in index.records if record.key not in broken]
    data = PackedDataset(root, manifest, tuple((number, record) for record in records), classes)
    counts = np.zeros(IGNORE + 1, np.int64)
    for i, record in enumerate(records):
        try:
            data.image(i)
            label = data.label(i)
        except DataError as error:
            damages.append(Damage(index.shard, record.key, reason(error, data.describe(i))))
            continue
        if label is None:
            continue
        histogram = np.bincount(label.ravel(), minlength=IGNORE + 1)
        counts += histogram
        outside = histogram[len(classes) : IGNORE].nonzero()[0]
        if outside.size:
            value = len(classes) + int(outside[0])
            text = f"label value {value} is outside its {len(classes)} classes"
            damages.append(Damage(index.shard, record.key, text))
        elif record.histogram not in (None, (*histogram[: len(classes)], histogram[IGNORE])):
            text = "its class pixels differ from the index"
            damages.append(Damage(index.shard, record.key, text))
    stored = (*index.class_pixels, index.ignored_pixels)
    if not broken and not damages and (*counts[: len(classes)], counts[IGNORE]) != stored:
        damages.append(Damage(index.shard, "", "its class pixels differ from the index"))
    return damages
