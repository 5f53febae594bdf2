"""The data of a run, as several processes that train together see it."""

from dataclasses import replace
from itertools import islice
from typing import Literal

import dataset_files as files
import pytest
import torch

from fastass.config.schema import Config, DataConfig, Method
from fastass.errors import UserError
from fastass.method.adaptation import method_spec
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.pipelines.loaders.order import sample_at
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.packed.pack import pack
from fastass.tracking.terminal import reporter
from fastass.training.data import TrainingData
from fastass.training.open_data import open_training_data

STEPS = 5
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A source of 5 files, 7 packed target images of which 3 are labelled, 7 of validation."""
    root = tmp_path_factory.mktemp("data")
    city = files.cityscapes(root / "city", 7, (96, 64))
    files.cityscapes(root / "city", 7, (96, 64), split="val")
    pack(open_dataset(city), root / "packed", (48, 32), workers=1, records_per_shard=3)
    data = DataConfig(
        source=str(files.gta5(root / "gta5", 5, (97, 63))),
        target=str(root / "packed"),
        val=str(city),
        source_size=(48, 32),
        target_size=(48, 32),
        scale=(1.0, 2.0),
        jitter=0.3,
        blur=1.0,
    )
    return Config(method="ga+fcsa", labelled=3, data=data)


def opened(config: Config, rank: int = 0, world: int = 1) -> TrainingData:
    data, _ = open_training_data(config, reporter(plain=True))
    return replace(data, rank=rank, world=world)


def joined(parts: tuple[Batch | None, ...]) -> Batch | None:
    """The global batch of all ranks; None for a stream that they do not have."""
    present = [part for part in parts if part is not None]
    if not present:
        return None
    assert len(present) == len(parts)
    labels = [part.labels for part in present if part.labels is not None]
    return Batch(
        torch.cat([part.images for part in present]),
        torch.cat(labels) if labels else None,
        tuple(name for part in present for name in part.names),
    )


def read(config: Config, world: int, loader: Literal["pillow", "dali"]) -> list[StepBatch]:
    """The global batches of `world` ranks that share a batch of 4."""
    config = replace(config, batch=4 // world, data=replace(config.data, loader=loader))
    spec = method_spec(config.method, config.labelled)
    ranks = []
    for rank in range(world):
        batches = opened(config, rank, world).batches(3, spec, CPU)
        ranks.append(list(islice(batches, STEPS)))
        batches.close()  # type: ignore[attr-defined]
    return [StepBatch(*map(joined, zip(*step, strict=True))) for step in zip(*ranks, strict=True)]


@pytest.mark.parametrize("loader", ["pillow", "dali"])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_times_batch_is_what_counts(
    config: Config, world: int, loader: Literal["pillow", "dali"]
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    for one, several in zip(read(config, 1, loader), read(config, world, loader), strict=True):
        for a, b in zip(one, several, strict=True):
            assert (a is None) == (b is None)
            if a is None or b is None:
                continue
            assert a.names == b.names
            assert torch.equal(a.images, b.images)  # the same draws too
            if a.labels is not None:
                assert b.labels is not None
                assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("loader", ["pillow", "dali"])
def test_batches_begin_at_the_step_asked_for(
    config: Config, loader: Literal["pillow", "dali"]
) -> None:
    """No batch is given anew, none is left out: each holds the samples of its own positions."""
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    config = replace(config, data=replace(config.data, loader=loader))
    data, spec = opened(config), method_spec(config.method, config.labelled)
    assert data.source is not None
    source, target = open_reader(data.source).names, open_reader(data.target).names
    labelled = data.labelled_names
    for first in (0, 1, 5):
        batches = data.batches(first, spec, CPU)
        for step, batch in enumerate(islice(batches, 3), first):
            assert batch.mixed is None
            for name, stream in batch._asdict().items():
                if stream is None:
                    continue
                names = {"source": source, "labelled": labelled, "unlabelled": target}[name]
                where = range(step * config.batch, (step + 1) * config.batch)
                wanted = [names[sample_at(config.seed, name, p, len(names))] for p in where]
                assert list(stream.names) == wanted, (name, first, step)
        batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_validation_images(config: Config, world: int) -> None:
    shares = [
        [name for batch in opened(config, rank, world).val_batches() for name in batch.names]
        for rank in range(world)
    ]
    assert config.data.val is not None
    assert sorted(name for share in shares for name in share) == sorted(
        open_dataset(config.data.val, split="val").samples[i].name for i in range(7)
    )
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_images_packed_too_small_are_refused(config: Config) -> None:
    large = replace(config, data=replace(config.data, target_resize=(96, 64)))
    line = "packed at 48x32, smaller than the 96x64 that target images are trained at"
    with pytest.raises(UserError, match=line):
        opened(large)


def test_urls_are_refused(config: Config) -> None:
    remote = replace(config, data=replace(config.data, source="s3://bucket/gta5"))
    with pytest.raises(UserError, match="s3://bucket/gta5: fastass reads and writes local"):
        opened(remote)


@pytest.mark.parametrize(
    ("method", "labelled", "mix", "off"),
    [
        ("joint", 3, True, False),
        ("ga", 0, True, False),
        ("ga+csa", 3, False, False),
        ("ga+csa", 0, False, True),
        ("ga+fcsa", 0, True, True),
    ],
)
def test_modules_that_are_off_are_named(
    config: Config, method: Method, labelled: int, mix: bool, off: bool
) -> None:
    config = replace(config, method=method, labelled=labelled, mix=mix)
    line = opened(config).describe(config.whole_method, method_spec(method, labelled, mix))
    assert ("the semantic module and L_seg(I_tl) are off" in line) is off
