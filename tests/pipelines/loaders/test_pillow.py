from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
import torch
from PIL import Image

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.datasets.decode import read_image, read_label
from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.batch import StepBatch
from fastass.pipelines.loaders.normalization import NORMALIZATIONS
from fastass.pipelines.loaders.open_loader import open_loader
from fastass.pipelines.loaders.order import sample_at
from fastass.pipelines.loaders.pillow import PillowLoader
from fastass.pipelines.loaders.spec import StreamSpec

BUSY = Augment(scale=(1.0, 2.0), jitter=0.3, hue=10, blur=1.0)


@pytest.fixture
def gta5(tmp_path: Path) -> Dataset:
    return open_dataset(files.gta5(tmp_path / "gta5", 5))


@pytest.fixture
def city(tmp_path: Path) -> Dataset:
    return open_dataset(files.cityscapes(tmp_path / "city", 7))


def steps(loader: PillowLoader, start: int, count: int) -> list[StepBatch]:
    with loader:
        return list(islice(loader.batches(start), count))


def assert_equal(a: StepBatch, b: StepBatch) -> None:
    for one, two in zip(a, b, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert one.names == two.names
            assert torch.equal(one.images, two.images)
            assert (one.labels is None) == (two.labels is None)
            if one.labels is not None and two.labels is not None:
                assert torch.equal(one.labels, two.labels)


def three(gta5: Dataset, city: Dataset, batch: int = 2) -> dict[str, StreamSpec]:
    size = (32, 16)
    return {
        "source": StreamSpec(gta5, batch, size, augment=BUSY),
        "labelled": StreamSpec(city, batch, size, indices=(1, 4, 6)),
        "unlabelled": StreamSpec(city, batch, size, "imagenet", with_labels=False),
    }


def test_preprocessing_of_the_adaptsegnet_baseline(gta5: Dataset) -> None:
    """Bicubic image in BGR minus the mean, nearest label, mirrored together."""
    loader = PillowLoader({"source": StreamSpec(gta5, 1, (24, 16))}, seed=3)
    mirrored = 0
    for step, got in enumerate(steps(loader, 0, 10)):
        assert got.source is not None
        assert got.labelled is None
        sample = gta5.samples[sample_at(3, "source", step, 5)]
        assert got.source.names == (sample.name,)
        with Image.open(files.on_disk(sample.image)) as file:
            image = np.asarray(file.resize((24, 16), Image.Resampling.BICUBIC), np.float32)
        label = Image.fromarray(read_label(gta5, sample)).resize((24, 16), Image.Resampling.NEAREST)
        image = image[..., ::-1] - np.array(NORMALIZATIONS["bgr"].mean, np.float32)
        expected, truth = image.transpose(2, 0, 1), np.asarray(label)
        pixels = got.source.images[0].numpy()
        if not np.array_equal(pixels, expected):
            mirrored += 1
            expected, truth = expected[..., ::-1], truth[:, ::-1]
        np.testing.assert_array_equal(pixels, expected)
        assert got.source.labels is not None
        np.testing.assert_array_equal(got.source.labels[0], truth)
    assert 0 < mirrored < 10


def test_padding_is_the_mean_colour_and_ignored(city: Dataset) -> None:
    """The image of 64 × 32 lies whole in the crop at half its size, mirrored or not."""
    labels = replace(city.classes, train_ids=dict.fromkeys(range(34), 5))  # nothing is ignored
    half = Augment(scale=(0.5, 0.5), resize=(64, 32))
    stream = StreamSpec(replace(city, classes=labels), 4, (48, 40), augment=half)
    pixels = {s.name: read_image(s) for s in city.samples}
    for batch in steps(PillowLoader({"source": stream}, 0), 0, 5):
        assert batch.source is not None
        assert batch.source.labels is not None
        for image, label, name in zip(
            batch.source.images, batch.source.labels, batch.source.names, strict=True
        ):
            rows, columns = (label == 5).any(dim=1).nonzero(), (label == 5).any(dim=0).nonzero()
            top, left = int(rows[0]), int(columns[0])
            assert (len(rows), len(columns)) == (16, 32)
            assert int((label == 5).sum()) == 16 * 32
            assert ((label == IGNORE) == (image == 0).all(dim=0)).float().mean() > 0.999
            small = Image.fromarray(pixels[name]).resize((32, 16), Image.Resampling.BICUBIC)
            wanted = np.asarray(small)[..., ::-1] - np.array(NORMALIZATIONS["bgr"].mean)
            inside = image[:, top : top + 16, left : left + 32].permute(1, 2, 0).numpy()
            assert min(abs(inside - wanted).max(), abs(inside - wanted[:, ::-1]).max()) < 1e-4


def test_imagenet_normalisation_and_memory_format(city: Dataset) -> None:
    spec = StreamSpec(city, 2, (64, 32), "imagenet", Augment(mirror=False))
    (got,) = steps(PillowLoader({"labelled": spec}, 0), 0, 1)
    assert got.labelled is not None
    images, labels = got.labelled.images, got.labelled.labels
    assert images.shape == (2, 3, 32, 64)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels is not None
    assert (labels.dtype, labels.shape) == (torch.uint8, (2, 32, 64))
    sample = city.samples[sample_at(0, "labelled", 0, 7)]
    with Image.open(files.on_disk(sample.image)) as file:
        rgb = np.asarray(file, np.float64) / 255
    expected = (rgb - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(images[0].permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("start", [1, 7])
def test_resume_is_exact(gta5: Dataset, city: Dataset, workers: int, start: int) -> None:
    streams = three(gta5, city)
    straight = steps(PillowLoader(streams, 5, workers=2), 0, 10)  # crosses epochs of 5, 3 and 7
    resumed = steps(PillowLoader(streams, 5, workers=workers, cache_bytes=0), start, 10 - start)
    for a, b in zip(straight[start:], resumed, strict=True):
        assert_equal(a, b)


def test_world_size_does_not_change_the_global_batch(gta5: Dataset, city: Dataset) -> None:
    whole = steps(PillowLoader(three(gta5, city, 4), 5, workers=0), 0, 4)
    ranks = [steps(PillowLoader(three(gta5, city, 2), 5, r, 2, workers=0), 0, 4) for r in (0, 1)]
    for step in range(4):
        for name in ("source", "labelled", "unlabelled"):
            parts = torch.cat([getattr(rank[step], name).images for rank in ranks])
            assert torch.equal(parts, getattr(whole[step], name).images)


def test_unlabelled_stream_has_no_labels(gta5: Dataset, city: Dataset) -> None:
    (got,) = steps(PillowLoader(three(gta5, city), 0), 0, 1)
    assert got.unlabelled is not None
    assert got.unlabelled.labels is None


def test_small_sets_are_decoded_once(city: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = StreamSpec(city, 2, (32, 16), indices=(0, 3))
    loader = PillowLoader({"labelled": spec}, 0)
    first = steps(loader, 0, 4)
    for sample in city.samples:
        files.on_disk(sample.image).unlink()
    with PillowLoader({"labelled": spec}, 0, workers=0) as cold, pytest.raises(DataError):
        next(cold.batches())
    warm = loader._readers["labelled"]
    assert {i for i in (0, 3) if warm.decode(i)} == {0, 3}
    assert first[0].labelled is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_sample_stops_with_its_name(gta5: Dataset, workers: int) -> None:
    path = files.on_disk(gta5.samples[2].label)
    path.write_bytes(path.read_bytes()[:50])
    loader = PillowLoader({"source": StreamSpec(gta5, 2, (24, 16))}, 0, workers=workers)
    with pytest.raises(DataError, match=r"labels/00003.png: damaged"):
        steps(loader, 0, 5)


def test_bad_sample_is_replaced_and_counted(gta5: Dataset) -> None:
    files.on_disk(gta5.samples[2].image).write_bytes(b"")

    def run(workers: int) -> Iterator[StepBatch]:
        spec = StreamSpec(gta5, 2, (24, 16), augment=BUSY)
        return iter(
            steps(PillowLoader({"source": spec}, 0, workers=workers, on_bad_sample="skip"), 0, 5)
        )

    names: list[str] = []
    skipped = 0
    lines: list[str] = []
    for a, b in zip(run(0), run(3), strict=True):
        assert_equal(a, b)
        assert a.source is not None
        names += a.source.names
        skipped += a.skipped
        lines += a.found_bad
    assert skipped == 2  # two epochs
    assert lines == [f"{gta5.samples[2].image}: damaged image file: the file is empty"]
    assert sorted(names) == sorted(["00001", "00002", "00004", "00004", "00005"] * 2)


def test_a_damaged_first_file_is_skipped_with_random_scale(gta5: Dataset) -> None:
    files.on_disk(gta5.samples[0].image).write_bytes(b"")
    streams = {"source": StreamSpec(gta5, 5, (24, 16), augment=BUSY)}
    (got,) = steps(PillowLoader(streams, 0, on_bad_sample="skip"), 0, 1)
    assert got.skipped == 1


def test_no_good_sample_at_all(gta5: Dataset) -> None:
    for sample in gta5.samples:
        files.on_disk(sample.image).write_bytes(b"")
    spec = StreamSpec(gta5, 1, (24, 16))
    with pytest.raises(DataError, match=r"no good sample; .*damaged"):
        steps(PillowLoader({"source": spec}, 0, on_bad_sample="skip"), 0, 1)


def test_closing_ends_the_threads(gta5: Dataset) -> None:
    import threading

    before = threading.active_count()
    with PillowLoader({"source": StreamSpec(gta5, 2, (24, 16))}, 0, workers=3) as loader:
        next(loader.batches())
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_bad_specs(gta5: Dataset, city: Dataset) -> None:
    with pytest.raises(DataError, match="must be positive"):
        StreamSpec(gta5, 0, (24, 16))
    with pytest.raises(DataError, match="normalize 'rgb' is unknown"):
        StreamSpec(gta5, 1, (24, 16), "rgb")
    with pytest.raises(DataError, match="outside 0…4"):
        StreamSpec(gta5, 1, (24, 16), indices=(5,))
    with pytest.raises(DataError, match="no samples"):
        StreamSpec(gta5, 1, (24, 16), indices=())
    with pytest.raises(ValueError, match="streams must be among"):
        PillowLoader({"target": StreamSpec(gta5, 1, (24, 16))}, 0)
    with pytest.raises(ValueError, match="rank 2"):
        PillowLoader({"source": StreamSpec(gta5, 1, (24, 16))}, 0, 2, 2)
    with pytest.raises(ValueError, match="loader 'gpu' is unknown"):
        open_loader("gpu", {"source": StreamSpec(gta5, 1, (24, 16))}, 0)


def test_labels_are_needed_where_asked_for(gta5: Dataset) -> None:
    files.on_disk(gta5.samples[1].label).unlink()
    data = open_dataset(gta5.root, labels="optional")
    with pytest.raises(DataError, match="have no label"):
        StreamSpec(data, 1, (24, 16))
    StreamSpec(data, 1, (24, 16), with_labels=False)
    StreamSpec(data, 1, (24, 16), indices=(0, 2))
