"""Symbolic links are followed wherever files are listed; loops are found.

Looked at: FolderFiles, by which all layouts and `predict` list files (the other lists, of shards
and of ToyCity's own labels, are of files that fastass wrote). What cannot be listed is an error,
and a link that leads nowhere is a damaged sample: nothing is left out in silence but hidden files.
"""

import errno
import os
from pathlib import Path

import dataset_files as files
import pytest

from fastass.checkpoint.fingerprint import fingerprint
from fastass.pipelines.datasets.decode import read_image, read_label
from fastass.pipelines.datasets.layouts import open_dataset, open_images
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.pack import pack


def move_and_link(path: Path, elsewhere: Path) -> None:
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("levels", ["aachen", ".", "..", "file"])
def test_cityscapes_with_links(tmp_path: Path, levels: str) -> None:
    """Of a city, a split, a whole tree, of single files."""
    root = files.cityscapes(tmp_path / "data", 5)
    wanted = [sample.name for sample in open_dataset(root).samples]
    for kind in ("leftImg8bit", "gtFine"):
        if levels == "file":
            for path in list((root / kind).rglob("*.png")):
                move_and_link(path, tmp_path / "elsewhere" / kind / path.name)
        else:
            path = Path(os.path.normpath(root / kind / "train" / levels))
            move_and_link(path, tmp_path / "elsewhere" / kind)
    assert [sample.name for sample in open_dataset(root).samples] == wanted


@pytest.mark.parametrize("layout", ["gta5", "synthia", "folder"])
def test_image_and_label_folders_may_be_links(tmp_path: Path, layout: str) -> None:
    root = getattr(files, layout)(tmp_path / "data")
    for name in ("images", "labels", "RGB", "GT"):
        if (root / name).exists():
            move_and_link(root / name, tmp_path / "elsewhere" / name)
    assert len(open_dataset(root)) == 3


def test_predict_follows_links(tmp_path: Path) -> None:
    files.write_image(tmp_path / "elsewhere/a.png", files.natural(16, 16))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/two").symlink_to(tmp_path / "elsewhere")  # twice is no loop
    assert [s.name for s in open_images(tmp_path / "photos").samples] == ["one/a", "two/a"]


@pytest.mark.parametrize("target", [".", "..", "../..", "itself"])
def test_a_loop_is_named(tmp_path: Path, target: str) -> None:
    files.write_image(tmp_path / "photos/day/a.png", files.natural(16, 16))
    link = tmp_path / "photos/day/loop"
    link.symlink_to(link if target == "itself" else target)
    nowhere = "loop, which is not there" if target == "itself" else "a folder that it lies in"
    with pytest.raises(DataError, match=f"day/loop.*: a symbolic link to .*{nowhere}; .*remove"):
        open_images(tmp_path / "photos")


def test_a_folder_behind_a_link_is_missing(tmp_path: Path) -> None:
    """As on a disk that is not mounted: fewer images would be read without a word."""
    root = files.gta5(tmp_path / "data")
    (root / "images/more").symlink_to(tmp_path / "gone")
    for read in (open_dataset, lambda root: open_images(root / "images")):
        with pytest.raises(DataError, match=r"more: a symbolic link to .*gone, which is not there"):
            read(root)


def test_a_link_that_leads_nowhere_is_a_damaged_sample(tmp_path: Path) -> None:
    root = files.gta5(tmp_path / "data")
    image = root / "images/00002.png"
    image.unlink()
    image.symlink_to(tmp_path / "gone.png")
    data = open_dataset(root)
    assert len(data) == 3
    with pytest.raises(DataError, match=r"00002.png: cannot be read: No such file"):
        read_image(data.samples[1])
    report = pack(data, tmp_path / "out", (20, 12), workers=1)
    assert [bad.name for bad in report.bad] == ["00002"]


@pytest.mark.parametrize("name", ["images/00002.png", "labels/00002.png"])
def test_a_pipe_is_a_damaged_sample(tmp_path: Path, name: str) -> None:
    root = files.gta5(tmp_path / "data")
    (root / name).unlink()
    os.mkfifo(root / name)  # opening it would wait for a writer
    data = open_dataset(root)
    fingerprint(data)
    with pytest.raises(DataError, match=r"00002.png: a pipe, a socket or a device, not a file"):
        read_label(data, data.samples[1]) if "labels" in name else read_image(data.samples[1])
    assert [bad.name for bad in pack(data, tmp_path / "out", (20, 12), workers=1).bad] == ["00002"]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_image(tmp_path / "photos/day/a.png", files.natural(16, 16))
    scandir = os.scandir

    def refuse(path: Path) -> object:  # root, too, would be let in where a mode forbids it
        if path.name == "day":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="day: cannot be listed: Permission denied"):
        open_images(tmp_path / "photos")


def test_a_deep_tree(tmp_path: Path) -> None:
    depth, here = 1500, os.getcwd()  # deeper than Python's recursion limit
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        with pytest.raises(DataError, match="no images"):
            open_images(tmp_path)
        for _ in range(depth):  # pytest cannot remove it
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)


def test_hidden_folders_are_not_read(tmp_path: Path) -> None:
    root = files.gta5(tmp_path)
    files.write_image(root / "images/.ipynb_checkpoints/9-checkpoint.png", files.natural(8, 8))
    assert len(open_dataset(root)) == 3
