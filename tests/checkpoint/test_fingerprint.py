"""Data that changed under a run are noticed on resuming; a copy of the data is not a change.

Looked at: images, labels and class files, in folders, in zip archives and packed; files of one
size (uncompressed images); single files that were mended; fingerprints of earlier versions and
damaged ones. Where a run starts from (`init`) has its own, in test_resume.py.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_files as files
import numpy as np
import pytest
from PIL import Image

from fastass.checkpoint.fingerprint import UNKNOWN, check_fingerprint, fingerprint, probes
from fastass.errors import UserError
from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.packed.dataset import open_packed
from fastass.pipelines.packed.pack import pack

RUN = Path("runs/x")


def own_data(root: Path, count: int) -> Path:
    """Of the layout `folder`, with PNG images."""
    for path in (files.folder(root, count) / "images").iterdir():
        path.rename(path.with_suffix(".tmp"))
        Image.open(path.with_suffix(".tmp")).save(path.with_suffix(".png"))
        path.with_suffix(".tmp").unlink()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return own_data(tmp_path / "data", 5)


def saved(data: Any) -> Any:
    """The fingerprint as RUN/inputs.json gives it back."""
    return json.loads(json.dumps(fingerprint(data)))


def notes(old: Any, data: Any) -> list[str]:
    lines: list[str] = []
    names = [sample.name for sample in data.samples] if isinstance(data, Dataset) else data.names
    check_fingerprint(RUN, "source", old, fingerprint(data), names, lines.append)
    return lines


def grow(path: Path) -> None:
    """A PNG with other bytes and another size, which decodes to the same."""
    data = path.read_bytes()
    path.write_bytes(data[:33] + files.png_chunk(b"tEXt", b"Comment\0changed") + data[33:])


def images(root: Path, folder: str = "images") -> list[Path]:
    found = sorted((root / folder).iterdir())
    assert found
    return found


def test_a_copy_with_other_times_is_the_same(root: Path, tmp_path: Path) -> None:
    old = saved(open_dataset(root))
    shutil.copytree(root, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1, 1))
    assert notes(old, open_dataset(tmp_path / "copy")) == []
    assert saved(open_dataset(tmp_path / "copy")) == old


def test_what_stands_in_it(root: Path, tmp_path: Path) -> None:
    found = saved(open_dataset(root))
    assert set(found) == {"images", "names", "meaning", "sizes", "ends", "probes"}
    for column, folder in enumerate(("images", "labels")):
        sizes = [path.stat().st_size for path in images(root, folder)]
        assert found["sizes"][column] == "".join(f"{size:08x}" for size in sizes)
    pack(open_dataset(root), tmp_path / "packed", (20, 12), workers=1)
    keys = {"images", "names", "sizes", "contents", "probes"}
    assert set(saved(open_packed(tmp_path / "packed"))) == keys
    official = open_dataset(files.gta5(tmp_path / "gta5"))
    assert set(saved(official)) == keys - {"contents"} | {"ends"}


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_single_files_are_noted_and_most_are_refused(root: Path, folder: str) -> None:
    old, paths = saved(open_dataset(root)), images(root, folder)
    for count, path in enumerate(reversed(paths), 1):
        grow(path)
        name = path.relative_to(root / folder).with_suffix("").as_posix()
        if count < 3:
            (line,) = notes(old, open_dataset(root))
            assert f"{count} of 5 source images or their labels have changed" in line
            assert f"(the first: {name})" in line
        else:
            with pytest.raises(UserError, match=rf"^runs/x: .*most source .*\(sizes.*: {name}\)"):
                notes(old, open_dataset(root))


def test_exactly_half_is_not_most(tmp_path: Path) -> None:
    root = own_data(tmp_path / "data", 2)
    old = saved(open_dataset(root))
    grow(images(root)[1])
    assert len(notes(old, open_dataset(root))) == 1


def test_image_and_label_of_one_sample_are_one_change(root: Path) -> None:
    old = saved(open_dataset(root))
    for folder in ("images", "labels"):
        for path in images(root, folder)[:2]:
            grow(path)
    (line,) = notes(old, open_dataset(root))
    assert "2 of 5" in line


def test_files_of_one_size_are_read_here_and_there(tmp_path: Path) -> None:
    root = own_data(tmp_path / "data", 20)
    for path in images(root):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.zeros((24, 40, 4), np.uint8))
    old = saved(open_dataset(root))
    arrays = images(root)
    where = probes(20)
    assert len(where) == 8
    assert (where[0], where[-1]) == (0, 19)
    changed = np.zeros((24, 40, 4), np.uint8)
    changed[0] = 1  # the files end as before
    for i in (0, 19):
        np.save(arrays[i], changed)
    (line,) = notes(old, open_dataset(root))
    assert line.startswith("runs/x: 2 of 20 source images")
    for path in arrays:
        np.save(path, changed)
    with pytest.raises(UserError, match="probes"):
        notes(old, open_dataset(root))


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_one_pixel_of_a_png_of_the_same_size(tmp_path: Path, folder: str) -> None:
    """Of a sample that is not read: a PNG ends with a checksum of its pixels."""
    root = own_data(tmp_path / "data", 20)
    path = images(root, folder)[7]
    with Image.open(path) as image:
        image.load()
    image.save(path, compress_level=0)
    old, size = saved(open_dataset(root)), path.stat().st_size
    image.putpixel((0, 0), 21 if folder == "labels" else (1, 2, 3))
    image.save(path, compress_level=0)
    assert path.stat().st_size == size
    assert 7 not in probes(20)
    (line,) = notes(old, open_dataset(root))
    assert line.startswith("runs/x: 1 of 20 source images")


def test_a_file_shorter_than_its_end(tmp_path: Path) -> None:
    """All of it counts."""
    root = own_data(tmp_path / "data", 20)
    path = images(root, "images")[7]
    path.write_bytes(b"a short file")
    old = saved(open_dataset(root))
    path.write_bytes(b"A short file")
    (line,) = notes(old, open_dataset(root))
    assert line.startswith("runs/x: 1 of 20 source images")


def test_the_last_64_bytes_count(tmp_path: Path) -> None:
    """As docs/reliability.md says, of a sample that is not read."""
    root = own_data(tmp_path / "data", 20)
    path = images(root, "images")[7]
    data = path.read_bytes() + bytes(100)
    path.write_bytes(data)
    old = saved(open_dataset(root))
    path.write_bytes(data[:-65] + b"x" + data[-64:])
    assert notes(old, open_dataset(root)) == []
    path.write_bytes(data[:-64] + b"x" + data[-63:])
    assert len(notes(old, open_dataset(root))) == 1


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 1000])
def test_a_few_samples_are_probed(count: int) -> None:
    found = probes(count)
    assert found == sorted(set(found))
    assert {0, count - 1} <= set(found) <= set(range(count))
    assert len(found) == min(count, 8)


def zipped(root: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(root.rglob("*")):
            archive.write(path, path.relative_to(root))
    return to


def test_archives_have_all_checksums_and_are_the_same_as_unpacked(
    root: Path, tmp_path: Path
) -> None:
    plain, packed = open_dataset(root), open_dataset(zipped(root, tmp_path / "all.zip"))
    assert "contents" not in saved(plain)
    assert len(saved(packed)["contents"][1]) == 8 * 5
    assert notes(saved(plain), packed) == notes(saved(packed), plain) == []
    data = images(root, "labels")[2].read_bytes()
    images(root, "labels")[2].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # of the same size
    (line,) = notes(saved(packed), open_dataset(zipped(root, tmp_path / "other.zip")))
    assert "1 of 5" in line


def test_a_pack_has_all_checksums(root: Path, tmp_path: Path) -> None:
    pack(open_dataset(root), tmp_path / "a", (20, 12), workers=1, records_per_shard=2)
    old = saved(open_packed(tmp_path / "a"))
    assert len(old["contents"][0]) == len(old["sizes"][1]) == 8 * 5
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert notes(old, open_packed(tmp_path / "copy")) == []
    ids = files.blocks(24, 40, 2, seed=9)
    files.write_image(images(root, "labels")[1], ids)
    pack(open_dataset(root), tmp_path / "b", (20, 12), workers=1, records_per_shard=2)
    (line,) = notes(old, open_packed(tmp_path / "b"))  # raw labels: all of one size
    assert "1 of 5" in line


def test_a_class_file_with_another_meaning(root: Path) -> None:
    old, file = saved(open_dataset(root)), root / "classes.yaml"
    text = file.read_text()
    file.write_text(text + "# a remark\n")
    assert notes(old, open_dataset(root)) == []
    file.write_text(text.replace("[1, 2]", "[2, 1]"))
    with pytest.raises(UserError, match=r"class file of the source data gives .* another meaning"):
        notes(old, open_dataset(root))


def test_labels_that_were_added_are_no_change(root: Path) -> None:
    whole = open_dataset(root)
    paths = images(root, "labels")
    kept = [(path, path.read_bytes()) for path in paths[1:]]
    for path, _ in kept:
        path.unlink()
    old = saved(open_dataset(root, labels="optional"))
    assert old["sizes"][1].count(UNKNOWN) == 4
    for path, data in kept:
        path.write_bytes(data)
    assert notes(old, whole) == []


def test_a_file_that_is_not_there_is_left_to_its_reader(root: Path) -> None:
    data = open_dataset(root)
    old = saved(data)
    images(root)[0].unlink()
    assert fingerprint(data)["sizes"][0].startswith(UNKNOWN)
    assert notes(old, data) == []


def test_other_images_are_refused(root: Path) -> None:
    old = saved(open_dataset(root))
    for folder in ("images", "labels"):
        path = images(root, folder)[0]
        path.rename(path.with_name("zz.png"))
    with pytest.raises(UserError, match=r"not those of the run \(5 → 5 images\); give --data-sou"):
        notes(old, open_dataset(root))
    for folder in ("images", "labels"):
        images(root, folder)[0].unlink()
    with pytest.raises(UserError, match="5 → 4 images"):
        notes(old, open_dataset(root))


def test_what_an_earlier_version_did_not_note_is_not_compared(root: Path) -> None:
    data = open_dataset(root)
    old = saved(data)
    assert notes({key: old[key] for key in ("images", "names")}, data) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda old: 3,
        lambda old: old.pop("names"),
        lambda old: {**old, "sizes": 5},
        lambda old: {**old, "sizes": []},
        lambda old: {**old, "sizes": [old["sizes"][0]]},
        lambda old: {**old, "sizes": [1, 2]},
        lambda old: {**old, "probes": ["", ""]},
        lambda old: {**old, "sizes": [text[:-1] for text in old["sizes"]]},
    ],
)
def test_a_damaged_fingerprint_is_refused(change: Callable[[Any], Any], root: Path) -> None:
    data = open_dataset(root)
    with pytest.raises(UserError, match="can't resume"):
        notes(change(saved(data)), data)
