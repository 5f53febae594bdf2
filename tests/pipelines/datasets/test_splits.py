"""A split that is missing is refused: nothing falls back to the whole data set.

Looked at: open_dataset for each layout (so `train`, `eval --split`, `pack --split`, `bench data`),
`--data-val`, packed directories (open_packed refuses another split, see test_shards.py), the class
statistics of ToyCity. Names that leave the image folder (`.`, `..`, `train/aachen`) are no splits.
"""

import shutil
from pathlib import Path

import dataset_files as files
import pytest

from fastass.cli.main import main
from fastass.config.schema import Config, DataConfig
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.toycity import class_shares
from fastass.tracking.terminal import reporter
from fastass.training.open_data import open_training_data

WITHOUT = r"no split '{}': {}/ has no splits; --split all of .*--data-val DIR"


def with_splits(root: Path, *splits: str) -> Path:
    """The data set of layout `folder` in `root`, its files repeated in splits."""
    for kind in ("images", "labels"):
        (root / kind).rename(root / "moved")
        for split in splits:
            shutil.copytree(root / "moved", root / kind / split)
        shutil.rmtree(root / "moved")
    return root


@pytest.mark.parametrize(
    ("layout", "images"), [("gta5", "images"), ("synthia", "RGB"), ("folder", "images")]
)
@pytest.mark.parametrize("split", ["val", "tset", "vla", "", ".", "..", "images"])
def test_a_set_without_splits(tmp_path: Path, layout: str, images: str, split: str) -> None:
    root = getattr(files, layout)(tmp_path)
    assert len(open_dataset(root)) == len(open_dataset(root, split="all")) == 3
    data = open_dataset(root, split="val", whole=True)
    assert (len(data), data.split) == (3, "all")
    with pytest.raises(DataError, match=WITHOUT.format(split, images)):
        open_dataset(root, split=split)


@pytest.mark.parametrize("layout", ["gta5", "synthia", "folder", "cityscapes"])
@pytest.mark.parametrize("split", ["test", "all", "", ".", "../images", "train/aachen", "train/"])
def test_a_split_that_is_missing(tmp_path: Path, layout: str, split: str) -> None:
    root = getattr(files, layout)(tmp_path)
    if layout == "cityscapes":
        files.cityscapes(root, split="val")
    elif layout == "synthia":
        for kind in ("RGB", "GT/LABELS"):
            (root / kind).rename(root / "moved")
            for name in ("train", "val"):
                shutil.copytree(root / "moved", root / kind / name)
            shutil.rmtree(root / "moved")
    else:
        with_splits(root, "train", "val")
    assert len(open_dataset(root)) == len(open_dataset(root, split="val")) == 3
    for whole in (False, True):
        with pytest.raises(DataError, match=r"no split .*; splits there: train, val$"):
            open_dataset(root, split=split, whole=whole)


def test_a_split_of_another_name(tmp_path: Path) -> None:
    """`training` beside `val` was read as one set of both."""
    root = with_splits(files.folder(tmp_path), "training", "val")
    with pytest.raises(DataError, match="no split 'train'; splits there: training, val"):
        open_dataset(root)
    assert len(open_dataset(root, split="training")) == 3


def test_images_beside_a_split(tmp_path: Path) -> None:
    root = files.folder(tmp_path)
    for kind in ("images", "labels"):
        shutil.copytree(root / kind, tmp_path / "copy")
        (tmp_path / "copy").rename(root / kind / "Validation")
    with pytest.raises(DataError, match=r"0.jpg lies beside the split images/Validation/"):
        open_dataset(root)


def test_sub_folders_that_are_no_splits(tmp_path: Path) -> None:
    root = with_splits(files.folder(tmp_path), "day", "night")
    with pytest.raises(DataError, match="splits there: day, night"):
        open_dataset(root)
    with (root / "classes.yaml").open("a") as file:
        file.write("splits: false\n")
    assert len(open_dataset(root)) == 6
    with pytest.raises(DataError, match="no split 'val'"):
        open_dataset(root, split="val")


def config(target: Path, val: Path | None = None) -> Config:
    data = DataConfig(target=str(target), val=None if val is None else str(val))
    return Config(method="oracle", labelled=2, data=data)


def test_training_needs_its_own_validation_data(tmp_path: Path) -> None:
    flat = files.folder(tmp_path / "flat")
    only_train = with_splits(files.folder(tmp_path / "split"), "train")
    for root, message in ((flat, "--data-val DIR"), (only_train, "splits there: train$")):
        with pytest.raises(DataError, match=message):
            open_training_data(config(root), reporter(plain=True))
    other = files.folder(tmp_path / "val", 5)
    for root in (flat, only_train):
        assert len(open_training_data(config(root, other), reporter(plain=True))[0].val) == 5
    with pytest.raises(DataError, match=r"splits there: train$"):
        open_training_data(config(flat, only_train), reporter(plain=True))


def test_pack_refuses_a_mistyped_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = files.gta5(tmp_path / "gta5"), tmp_path / "out"
    words = ["pack", "--root", str(root), "--size", "20x12", "--out", str(out)]
    assert main([*words, "--split", "vla"]) == 2
    assert "no split 'vla'" in capsys.readouterr().err
    assert not out.exists()


def test_class_statistics_of_a_missing_split(tmp_path: Path) -> None:
    files.cityscapes(tmp_path / "cityscapes", split="train")
    with pytest.raises(DataError, match="no ToyCity labels for split 'tset'"):
        class_shares(tmp_path, "tset")
