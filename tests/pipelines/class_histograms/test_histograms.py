"""Class histograms: right for every layout, counted once, and again when a label changes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
from child import environment
from packed_files import index_of, replace_index

from fastass.pipelines.class_histograms import histograms
from fastass.pipelines.class_histograms.histograms import ClassHistograms, class_histograms
from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.datasets.decode import read_label
from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.packed.dataset import PackedDataset, open_packed
from fastass.pipelines.packed.pack import pack

pytestmark = pytest.mark.usefixtures("user_cache")


def truth(dataset: Dataset) -> np.ndarray:
    """Pixels per train id, ignored ones in the last column, from the decoded labels."""
    classes = len(dataset.classes)
    counts = np.stack(
        [np.bincount(read_label(dataset, s).ravel(), minlength=256) for s in dataset.samples]
    )
    return np.column_stack([counts[:, :classes], counts[:, IGNORE]])


def assert_counted(found: ClassHistograms, wanted: np.ndarray) -> None:
    np.testing.assert_array_equal(np.column_stack([found.pixels, found.ignored]), wanted)
    assert found.bad == {}


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the samples whose labels are read from now on."""
    seen: list[int] = []
    count = histograms.count_values

    def spy(dataset: Dataset | PackedDataset, i: int) -> object:
        seen.append(i)
        return count(dataset, i)

    monkeypatch.setattr(histograms, "count_values", spy)
    return seen


@pytest.mark.parametrize("layout", ["gta5", "synthia", "cityscapes", "folder"])
def test_every_layout(tmp_path: Path, layout: str) -> None:
    dataset = open_dataset(getattr(files, layout)(tmp_path / "data", 5))
    found = class_histograms(dataset)
    wanted = truth(dataset)
    assert_counted(found, wanted)
    assert wanted[:, -1].any()
    assert wanted[:, :-1].any()
    assert (found.sizes.prod(axis=1) == wanted.sum(axis=1)).all()
    some = class_histograms(dataset, (3, 1))
    assert_counted(some, wanted[[3, 1]])


def test_fewer_classes_need_no_new_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 4))
    class_histograms(dataset)
    seen = reads(monkeypatch)
    fewer = dataset.with_classes(("car", "road"))
    found = class_histograms(fewer)
    assert found.classes == ("car", "road")
    assert_counted(found, truth(fewer))
    assert seen == []


def test_archives_are_counted_as_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 3))
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "data")
    for _ in range(2):
        found = class_histograms(open_dataset(archive))
        assert_counted(found, truth(dataset))
        seen = reads(monkeypatch)
    assert seen == []


def test_images_without_label_are_zero(tmp_path: Path) -> None:
    root = files.gta5(tmp_path / "data", 3)
    (root / "labels/00002.png").unlink()
    found = class_histograms(open_dataset(root, labels="optional"))
    assert [bool(row.any()) for row in found.pixels] == [True, False, True]
    assert found.sizes.tolist() == [[48, 28], [0, 0], [48, 28]]
    assert found.bad == {}


def test_labels_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 4))
    seen, notes = reads(monkeypatch), list[str]()
    progress: list[tuple[int, int]] = []
    first = class_histograms(
        dataset, (0, 2), note=notes.append, progress=lambda *at: progress.append(at)
    )
    assert sorted(seen) == [0, 2]
    assert progress == [(1, 2), (2, 2)]
    assert len(notes) == 1
    assert "counted the classes of 2 labels (kept in " in notes[0]
    class_histograms(dataset, note=notes.append)
    assert sorted(seen) == [0, 1, 2, 3]
    assert len(notes) == 2
    again = class_histograms(dataset, (0, 2), note=notes.append)
    assert len(seen) == 4
    assert len(notes) == 2
    np.testing.assert_array_equal(again.pixels, first.pixels)


def test_a_changed_label_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one of the same size and time of modification, as `cp -p` leaves it."""
    root = files.cityscapes(tmp_path / "data", 3)
    dataset = open_dataset(root)
    before = class_histograms(dataset)
    label = files.on_disk(dataset.samples[1].label)
    status = label.stat()
    files.write_image(label, np.full((32, 64), 26, np.uint8))
    with label.open("ab") as file:
        file.write(bytes(max(0, status.st_size - label.stat().st_size)))
    os.utime(label, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (label.stat().st_size, label.stat().st_mtime_ns) == (
        status.st_size,
        status.st_mtime_ns,
    )
    seen = reads(monkeypatch)
    after = class_histograms(dataset)
    assert seen == [1]
    np.testing.assert_array_equal(after.pixels[[0, 2]], before.pixels[[0, 2]])
    assert after.pixels[1].tolist() == [32 * 64 * (name == "car") for name in after.classes]


def test_bad_labels_are_named_and_not_kept(tmp_path: Path) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 4))
    wanted = truth(dataset)
    whole = {}
    for i, data in ((0, b"\x89PNG"), (2, None)):
        label = files.on_disk(dataset.samples[i].label)
        whole[label] = label.read_bytes()
        label.unlink() if data is None else label.write_bytes(data)
    files.write_palette(files.on_disk(dataset.samples[3].label), np.full((28, 48), 34, np.uint8))
    odd = replace(dataset, classes=replace(dataset.classes, train_ids={7: 0, 26: 13}))
    found = class_histograms(odd)
    assert sorted(found.bad) == [0, 1, 2, 3]
    assert "00001.png" in found.bad[0]
    assert "00003.png: cannot be read" in found.bad[2]
    assert "label value" in found.bad[1]
    assert "outside" in found.bad[3]
    assert not found.pixels.any()
    assert not found.sizes.any()
    for label, data in whole.items():
        label.write_bytes(data)
    found = class_histograms(dataset)
    assert found.bad == {}
    np.testing.assert_array_equal(found.pixels[:3], wanted[:3, :-1])


def small_pack(tmp_path: Path, size: tuple[int, int] = (48, 28)) -> tuple[Dataset, Path]:
    dataset = open_dataset(files.gta5(tmp_path / "data", 5))
    pack(dataset, tmp_path / "packed", size, workers=1, records_per_shard=2)
    return dataset, tmp_path / "packed"


def without_histograms(root: Path) -> None:
    """As an earlier fastass packed it."""
    for number in range(len(list(root.glob("shard-*.tar")))):
        index = index_of(root, number)
        records = tuple(record._replace(histogram=None) for record in index.records)
        replace_index(root, number, replace(index, records=records))
        assert b"histograms" not in (root / f"shard-0000{number}.json").read_bytes()


def test_a_pack_has_the_histograms_of_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_cache: Path
) -> None:
    dataset, root = small_pack(tmp_path)
    seen = reads(monkeypatch)
    data = open_packed(root)
    assert_counted(class_histograms(data), truth(dataset))
    fewer = ("car", "road")
    assert_counted(class_histograms(data.with_classes(fewer)), truth(dataset.with_classes(fewer)))
    assert seen == []
    assert not user_cache.exists()
    assert class_histograms(data).pixels.sum(axis=0).tolist() == list(data.manifest.class_pixels)


@pytest.mark.parametrize("size", [(48, 28), (31, 17)])
def test_an_older_pack_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    _, root = small_pack(tmp_path, size)
    wanted = class_histograms(open_packed(root))
    without_histograms(root)
    before = sorted(p.name for p in root.iterdir())
    data, seen, notes = open_packed(root), reads(monkeypatch), list[str]()
    for _ in range(2):
        found = class_histograms(data, note=notes.append)
        np.testing.assert_array_equal(found.pixels, wanted.pixels)
        np.testing.assert_array_equal(found.sizes, wanted.sizes)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert len(notes) == 1
    assert "earlier fastass" in notes[0]
    fewer = class_histograms(data.with_classes(("car", "road")))
    np.testing.assert_array_equal(fewer.pixels, wanted.pixels[:, [13, 0]])
    assert sorted(p.name for p in root.iterdir()) == before


def cache_file(user_cache: Path) -> Path:
    (path,) = user_cache.rglob("*.json")
    return path


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    tree = json.loads(data)
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not JSON":
        path.write_bytes(b"\xff\x00" * 40)
    elif how == "another shape":
        path.write_bytes(b"[1, 2]")
    elif how == "one count changed":
        next(iter(tree["labels"].values()))[2][0][1] += 1
        path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "not JSON", "another shape", "one count changed"]
)
def test_a_damaged_cache_is_counted_again(tmp_path: Path, user_cache: Path, how: str) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 3))
    class_histograms(dataset)
    path, notes = cache_file(user_cache), list[str]()
    whole = path.read_bytes()
    spoil(path, how)
    assert_counted(class_histograms(dataset, note=notes.append), truth(dataset))
    assert len(notes) == 2
    assert "is damaged; the labels are counted again" in notes[0]
    assert path.read_bytes() == whole


def test_no_bit_of_the_cache_may_flip(tmp_path: Path, user_cache: Path) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 2))
    class_histograms(dataset)
    whole = cache_file(user_cache).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        data[rng.integers(len(data) - 1)] ^= 1 << rng.integers(8)
        cache_file(user_cache).write_bytes(data)
        assert_counted(class_histograms(dataset), truth(dataset))


def test_a_cache_of_another_version_is_replaced(tmp_path: Path, user_cache: Path) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 2))
    class_histograms(dataset)
    path = cache_file(user_cache)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"version": 1', b'"version": 99'))
    assert_counted(class_histograms(dataset), truth(dataset))
    assert path.read_bytes() == whole


def test_data_folders_are_never_written_to(tmp_path: Path) -> None:
    root = files.gta5(tmp_path / "data", 2)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    class_histograms(open_dataset(root))
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_without_a_writable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 2))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        notes: list[str] = []
        assert_counted(class_histograms(dataset, note=notes.append), truth(dataset))
        assert "can't be kept: " in notes[-1]
        assert "Not a directory" in notes[-1]


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(files.gta5(tmp_path / "data", 2))

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored
    monkeypatch.setattr(Path, "home", no_home)
    notes: list[str] = []
    assert_counted(class_histograms(dataset, note=notes.append), truth(dataset))
    assert "can't be kept: the user has no home directory" in notes[-1]


COUNT = """
import sys
from fastass.pipelines.class_histograms.histograms import class_histograms
from fastass.pipelines.datasets.layouts import open_dataset
dataset = open_dataset(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
found = class_histograms(dataset, note=lambda line: print("note", line))
print(found.pixels.sum(axis=0).tolist())
"""


def test_processes_at_once_count_each_label_once(tmp_path: Path, user_cache: Path) -> None:
    root = files.gta5(tmp_path / "data", 60)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(XDG_CACHE_HOME=str(user_cache)),
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum("counted the classes of 60 labels" in output for output in outputs) == 1
    wanted = str(truth(open_dataset(root)).sum(axis=0)[:-1].tolist())
    assert [output.splitlines()[-1] for output in outputs] == [wanted] * 3
    assert [p.suffix for p in cache_file(user_cache).parent.iterdir()] == [".json"]
