"""Data sets in the zip archives of their owners, with the same folders in them."""

import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import dataset_files as files
import numpy as np
import pytest
from packed_files import content

from fastass.cli.main import main
from fastass.pipelines.datasets import zip_files
from fastass.pipelines.datasets.decode import read_image, read_label
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.packed.pack import pack


def zipped(archive: Path, root: Path, *folders: str, top: str = "") -> Path:
    """An archive of some folders below `root`, with entries for folders, as owners make them."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for folder in folders:
            for path in sorted((root / folder).rglob("*")) or [root / folder]:
                file.write(path, f"{top}{path.relative_to(root)}")
    return archive


def gta5_archives(tmp_path: Path, count: int = 5) -> tuple[Path, list[Path]]:
    """GTA5 in four archives, two parts of images and of labels, and unpacked."""
    root, archives = files.gta5(tmp_path / "gta5", count), []
    for part, numbers in (("01", (1, 2, 3)), ("02", (4, 5))):
        for kind in ("images", "labels"):
            half = tmp_path / f"half{part}"
            for number in numbers:
                (half / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / kind / f"{number:05d}.png", half / kind)
            archives.append(zipped(tmp_path / f"zips/{part}_{kind}.zip", half, kind))
    return root, archives


def assert_same_samples(ours: str | Path, unpacked: Path, **options: Any) -> None:
    data, truth = open_dataset(ours, **options), open_dataset(unpacked, **options)
    assert (data.layout, data.split, data.classes) == (truth.layout, truth.split, truth.classes)
    assert [s.name for s in data.samples] == [s.name for s in truth.samples]
    for sample, other in zip(data.samples, truth.samples, strict=True):
        np.testing.assert_array_equal(read_image(sample), read_image(other))
        np.testing.assert_array_equal(read_label(data, sample), read_label(truth, other))
    reader, other_reader = open_reader(data), open_reader(truth)
    np.testing.assert_array_equal(reader.encoded(0), other_reader.encoded(0))
    assert reader.size(0) == other_reader.size(0)


def test_gta5(tmp_path: Path) -> None:
    root, archives = gta5_archives(tmp_path)
    assert_same_samples(",".join(map(str, archives)), root)
    assert_same_samples(tmp_path / "zips", root)  # a folder of archives
    with pytest.raises(DataError, match=r"02_images.zip/images/00004.png: image without label"):
        open_dataset(",".join(map(str, archives[:3])))


def test_cityscapes(tmp_path: Path) -> None:
    root = files.cityscapes(tmp_path / "data", 3)
    files.cityscapes(root, 2, split="val")
    for name in ("README", "license.txt"):  # both archives ship them
        (root / name).write_text("terms")
    for kind, archive in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine")):
        zipped(tmp_path / f"zips/{archive}_trainvaltest.zip", root, kind, "README", "license.txt")
    for split in ("train", "val"):
        assert_same_samples(tmp_path / "zips", root, split=split)
    with pytest.raises(DataError, match="no split 'test'; splits there: train, val"):
        open_dataset(tmp_path / "zips", split="test")


def test_own_data_zipped_as_a_whole(tmp_path: Path) -> None:
    root = files.folder(tmp_path / "mine")
    (root / "images/._0.jpg").write_bytes(b"of a Mac")
    archive = zipped(tmp_path / "a.zip", root, "images", "labels", "classes.yaml", top="mine/")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/mine/images/._1.jpg", b"of a Mac")
    assert_same_samples(archive, root)


def test_synthia_zipped_as_a_whole(tmp_path: Path) -> None:
    root = files.synthia(tmp_path / "synthia")
    assert_same_samples(zipped(tmp_path / "a.zip", root, "RGB", "GT", top="RAND_CITYSCAPES/"), root)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_packed_bytes_are_the_same(tmp_path: Path, workers: str) -> None:
    root, archives = gta5_archives(tmp_path)
    for name, source in (("a", str(root)), ("b", ",".join(map(str, archives)))):
        out = ["--size", "20x12", "--out", str(tmp_path / name), "--workers", workers]
        assert main(["pack", "--root", source, *out]) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    again = pack(open_dataset(tmp_path / "zips"), tmp_path / "b", (20, 12), workers=1)
    assert (again.kept, again.written) == (5, 0)


def damaged(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        info = next(i for i in file.infolist() if not i.is_dir())
    if kind == "flipped":
        data[info.header_offset + 60 + len(info.filename)] ^= 1
    elif kind == "encrypted":
        data[info.header_offset + 6] |= 1
        data[data.index(b"PK\x01\x02", info.header_offset) + 8] |= 1
    elif kind == "method":
        at = data.index(b"PK\x01\x02", info.header_offset)
        data[at + 10 : at + 12] = data[info.header_offset + 8 : info.header_offset + 10] = b"\x63\0"
    elif kind == "huge":
        at = data.index(b"PK\x01\x02", info.header_offset)
        data[at + 24 : at + 28] = struct.pack("<I", (1 << 32) - 2)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["flipped", "encrypted", "method", "huge"])
def test_a_damaged_member_is_a_bad_sample(tmp_path: Path, kind: str) -> None:
    root = files.gta5(tmp_path / "gta5", 2)
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted((root / "images").iterdir()):
            file.write(path, f"images/{path.name}")
    damaged(tmp_path / "i.zip", kind)
    labels = zipped(tmp_path / "l.zip", root, "labels")
    data = open_dataset(f"{tmp_path / 'i.zip'},{labels}")
    report = pack(data, tmp_path / "out", (20, 12), workers=1, on_bad_sample="skip")
    assert [bad.name for bad in report.bad] == ["00001"]
    assert report.bad[0].reason.startswith("i.zip/images/00001.png: ")
    assert report.written == 1


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a.zip: cannot be read as a zip archive: "):
        open_dataset(tmp_path / "a.zip")
    with pytest.raises(DataError, match=r"b.zip: cannot be read as a zip archive: No such file"):
        open_dataset(tmp_path / "b.zip")
    (tmp_path / "a.rar").write_bytes(content)
    with pytest.raises(DataError, match=r"a.rar: is no directory; .* zip archives"):
        open_dataset(tmp_path / "a.rar")


def test_one_image_in_two_archives(tmp_path: Path) -> None:
    root = files.gta5(tmp_path / "gta5")
    for name in ("a", "b"):
        zipped(tmp_path / f"zips/{name}.zip", root, "images", "labels")
    with pytest.raises(DataError, match=r"a.zip/images/0000.\.png: is also in .*b.zip"):
        open_dataset(tmp_path / "zips")


def test_the_class_file_may_lie_beside_the_archives(tmp_path: Path) -> None:
    root = files.folder(tmp_path / "own")
    for folder in ("images", "labels"):
        zipped(tmp_path / f"zips/{folder}.zip", root, folder)
    with pytest.raises(DataError, match=r"no classes.yaml beside images/; layout folder needs"):
        open_dataset(tmp_path / "zips", "folder")
    shutil.copy(root / "classes.yaml", tmp_path / "zips")
    assert_same_samples(tmp_path / "zips", root)
    zipped(tmp_path / "zips/classes.zip", root, "classes.yaml")
    with pytest.raises(DataError, match=r"classes.yaml: is also in .*classes.zip; remove one"):
        open_dataset(tmp_path / "zips")


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("images/00001.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a symbolic link; unpack the archive"):
        open_dataset(tmp_path / "a.zip")


def test_a_member_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = gta5_archives(tmp_path)
    data = open_dataset(tmp_path / "zips")
    monkeypatch.setattr(zip_files, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="bytes, more than 10"):
        read_image(data.samples[0])
    assert len(open_dataset(root)) == 5


def test_messages_name_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files.gta5(tmp_path / "gta5", 1)
    zipped(tmp_path / "all.zip", root, "images", "labels")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^all.zip: no split 'val': images/ has no splits"):
        open_dataset("all.zip", "gta5", "val")
