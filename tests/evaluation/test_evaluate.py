from pathlib import Path

import dataset_files as files
import numpy as np
import pytest

from fastass.pipelines.datasets.decode import read_label
from fastass.pipelines.datasets.layouts import open_dataset, open_images
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.evaluation import EvalLoader


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_once_over_all_ranks(tmp_path: Path, world: int, workers: int) -> None:
    data = open_dataset(files.cityscapes(tmp_path, 7))
    labels = {s.name: read_label(data, s) for s in data.samples}
    seen: list[str] = []
    for rank in range(world):
        feed = EvalLoader(data, (32, 16), "bgr", 2, rank, world, workers)
        before = len(seen)
        for batch in feed:
            assert batch.images.shape[1:] == (3, 16, 32)
            assert batch.size == (64, 32)
            assert batch.labels is not None
            for name, label in zip(batch.names, batch.labels, strict=True):
                np.testing.assert_array_equal(label, labels[name])
            seen += batch.names
        assert len(seen) - before == len(feed)
    assert sorted(seen) == [s.name for s in data.samples]


def test_batches_have_one_size(tmp_path: Path) -> None:
    root = files.folder(tmp_path, 5)
    files.write_image(root / "images/2.jpg", files.natural(30, 50))
    files.write_image(root / "labels/2.png", files.blocks(30, 50, 3))
    batches = list(EvalLoader(open_dataset(root), (20, 12), batch=4))
    assert [b.names for b in batches] == [("0", "1"), ("2",), ("3", "4")]
    assert [b.size for b in batches] == [(40, 24), (50, 30), (40, 24)]


def test_prediction_needs_no_labels(tmp_path: Path) -> None:
    root = files.folder(tmp_path, 2)
    (batch,) = EvalLoader(open_images(root / "images"), (20, 12), batch=4, with_labels=False)
    assert batch.labels is None
    assert batch.names == ("0", "1")


def test_bad_sample_stops(tmp_path: Path) -> None:
    root = files.folder(tmp_path, 3)
    (root / "images/1.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match=r"images/1.jpg: damaged"):
        list(EvalLoader(open_dataset(root), (20, 12)))


def test_bad_sample_can_be_left_out(tmp_path: Path) -> None:
    root = files.folder(tmp_path, 3)
    (root / "images/1.jpg").write_bytes(b"no")
    batches = EvalLoader(open_dataset(root), (20, 12), on_bad_sample="skip")
    assert [name for batch in batches for name in batch.names] == ["0", "2"]


def test_stopping_early_ends_the_threads(tmp_path: Path) -> None:
    import threading

    before = threading.active_count()
    for _ in EvalLoader(open_dataset(files.folder(tmp_path, 9)), (20, 12)):
        break
    assert threading.active_count() == before
