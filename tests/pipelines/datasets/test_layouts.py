from pathlib import Path

import dataset_files as files
import pytest

from fastass.pipelines.datasets.classes import SYNTHIA_16
from fastass.pipelines.datasets.layouts import detect_layout, open_dataset, open_images
from fastass.pipelines.errors import DataError


@pytest.mark.parametrize("layout", ["gta5", "synthia", "cityscapes", "folder"])
def test_layout_is_recognised_and_paired(tmp_path: Path, layout: str) -> None:
    root = getattr(files, layout)(tmp_path)
    assert detect_layout(root) == layout
    data = open_dataset(root)
    assert (data.layout, len(data)) == (layout, 3)
    names = [sample.name for sample in data.samples]
    assert names == sorted(set(names))
    for sample in data.samples:
        assert files.on_disk(sample.image).is_file()
        assert files.on_disk(sample.label).is_file()


def test_cityscapes_reads_one_split(tmp_path: Path) -> None:
    files.cityscapes(tmp_path, 3, split="train")
    files.cityscapes(tmp_path, 2, split="val")
    assert len(open_dataset(tmp_path, split="train")) == 3
    data = open_dataset(tmp_path, split="val")
    assert data.samples[0].name == "aachen/aachen_000000_000019"
    with pytest.raises(DataError, match="split 'test'; splits there: train, val"):
        open_dataset(tmp_path, split="test")


def test_folder_may_have_splits(tmp_path: Path) -> None:
    files.folder(tmp_path)
    for kind in ("images", "labels"):
        (tmp_path / "moved").mkdir()
        for path in list((tmp_path / kind).iterdir()):
            path.rename(tmp_path / "moved" / path.name)
        (tmp_path / "moved").rename(tmp_path / kind / "val")
    assert len(open_dataset(tmp_path, split="val")) == 3


def test_stray_files_do_not_matter(tmp_path: Path) -> None:
    root = files.gta5(tmp_path)
    for stray in ("images/.DS_Store", "images/._00001.png", "labels/Thumbs.db", "labels/._1.png"):
        (root / stray).write_bytes(b"x")
    assert len(open_dataset(root)) == 3


def test_image_without_label(tmp_path: Path) -> None:
    root = files.gta5(tmp_path)
    (root / "labels/00002.png").unlink()
    with pytest.raises(DataError, match=r"images/00002.png: image without label; labels/00002.png"):
        open_dataset(root)
    data = open_dataset(root, labels="optional")
    assert [sample.label is None for sample in data.samples] == [False, True, False]


def test_label_without_image(tmp_path: Path) -> None:
    root = files.cityscapes(tmp_path)
    for path in root.rglob("*_leftImg8bit.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"labelIds.png: label without image \(and 2 more\)"):
        open_dataset(root)


def test_missing_root_and_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match=r"looked for images/.*leftImg8bit.*found pictures/"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="layout 'gta' is unknown"):
        open_dataset(tmp_path, layout="gta")
    with pytest.raises(DataError, match="no folder RGB/"):
        open_dataset(tmp_path, layout="synthia")


def test_empty_data_set(tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="no images"):
        open_dataset(tmp_path)


def test_two_files_of_one_sample(tmp_path: Path) -> None:
    root = files.gta5(tmp_path)
    (root / "images/00001.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"00001\.png: same sample as .*00001\.jpg"):
        open_dataset(root)


def test_fewer_classes(tmp_path: Path) -> None:
    data = open_dataset(files.synthia(tmp_path)).with_classes(SYNTHIA_16)
    assert data.classes.names == SYNTHIA_16


def test_images_for_prediction(tmp_path: Path) -> None:
    root = files.folder(tmp_path)
    assert len(open_images(root / "images")) == 3
    assert open_images(root / "images/1.jpg").samples[0].name == "1"
    with pytest.raises(DataError, match=r"9\.jpg: no such file or folder"):
        open_images(root / "images/9.jpg")
    with pytest.raises(DataError, match="neither an image file nor a folder"):
        open_images(root / "classes.yaml")


@pytest.mark.parametrize("name", ["images/b.webp", "images/b.HEIC", "labels/b.bmp"])
def test_a_picture_of_another_format_is_named(tmp_path: Path, name: str) -> None:
    """It would be left out, of unlabelled images without a word."""
    root = files.folder(tmp_path / "data")
    (root / name).touch()
    with pytest.raises(DataError, match=rf"{name}: .* is no format of data sets .*; convert it"):
        open_dataset(root, labels="optional")
