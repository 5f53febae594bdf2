import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest
from packed_files import SIZE, fails, flip, index_of, packed, replace_index
from PIL import Image

from fastass.pipelines.datasets.classes import IGNORE, NAMES, SYNTHIA_16
from fastass.pipelines.datasets.decode import read_image, read_label
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.packed.dataset import is_packed, open_packed
from fastass.pipelines.packed.pack import pack


@pytest.mark.parametrize("label", ["raw", "png"])
@pytest.mark.parametrize("layout", ["gta5", "synthia", "cityscapes", "folder"])
def test_round_trip(tmp_path: Path, layout: str, label: str) -> None:
    write: Callable[[Path], Path] = getattr(files, layout)
    dataset = open_dataset(write(tmp_path / "source"))
    pack(dataset, tmp_path / "out", SIZE, image="png", label=label, workers=1)
    data = open_packed(tmp_path / "out")
    assert (data.layout, data.split, data.size, len(data)) == (layout, "train", SIZE, 3)
    assert data.classes == dataset.classes
    assert data.names == tuple(sample.name for sample in dataset.samples)
    assert data.has_labels
    for i, sample in enumerate(dataset.samples):
        data.check(i)
        wanted = Image.fromarray(read_image(sample)).resize(SIZE, Image.Resampling.BICUBIC)
        assert np.abs(data.image(i).astype(int) - np.asarray(wanted)).max() <= 1
        ids = Image.fromarray(read_label(dataset, sample)).resize(SIZE, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(data.label(i), np.asarray(ids))


def test_jpeg_is_close_and_has_full_chroma(tmp_path: Path) -> None:
    data = open_packed(packed(tmp_path))
    sample = open_dataset(tmp_path / "source").samples[0]
    wanted = Image.fromarray(read_image(sample)).resize(SIZE, Image.Resampling.BICUBIC)
    error = data.image(0).astype(float) - np.asarray(wanted)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 36
    sampling = bytes(data.image_bytes(0)).split(b"\xff\xc0", 1)[1][9:18:3]  # of SOF0's components
    assert sampling == b"\x11\x11\x11"


def test_without_labels(tmp_path: Path) -> None:
    root = files.cityscapes(tmp_path / "source")
    shutil.rmtree(root / "gtFine")
    dataset = open_dataset(root, labels="optional")
    pack(dataset, tmp_path / "out", SIZE, workers=1)
    data = open_packed(tmp_path / "out")
    assert not data.has_labels
    assert data.label(0) is None
    assert data.label_bytes(0) is None
    data.check(0)


def test_labels_and_bytes_are_views_of_the_shard(tmp_path: Path) -> None:
    data = open_packed(packed(tmp_path))
    label = data.label(2)
    assert label is not None
    assert not label.flags.writeable
    assert not label.flags.owndata
    assert data.image_bytes(2).readonly


def test_pickle_carries_no_maps(tmp_path: Path) -> None:
    data = open_packed(packed(tmp_path))
    before = data.image(3)
    copy = pickle.loads(pickle.dumps(data))
    assert copy == data
    np.testing.assert_array_equal(copy.image(3), before)


def test_with_classes(tmp_path: Path) -> None:
    data = open_packed(packed(tmp_path))
    assert data.with_classes(NAMES) is data
    fewer = data.with_classes(SYNTHIA_16)
    assert fewer.classes.names == SYNTHIA_16
    old, new = data.label(0), fewer.label(0)
    assert old is not None
    assert new is not None
    assert (new[old == NAMES.index("car")] == SYNTHIA_16.index("car")).all()
    assert (new[old == NAMES.index("truck")] == IGNORE).all()
    assert (new[old == IGNORE] == IGNORE).all()
    again = fewer.with_classes(("car",)).label(0)
    assert again is not None
    np.testing.assert_array_equal(again == 0, old == NAMES.index("car"))
    fails(lambda: data.with_classes(("tram",)), "tram")


def test_tarfile_reads_the_shards(tmp_path: Path) -> None:
    root = packed(tmp_path)
    data = open_packed(root)
    i = 0
    for path in sorted(root.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for image, label, meta in zip(members[::3], members[1::3], members[2::3], strict=True):
                stem = image.name.removesuffix(".jpg")
                assert "." not in stem
                assert (label.name, meta.name) == (f"{stem}.seg.raw", f"{stem}.json")
                assert tar.extractfile(image).read() == data.image_bytes(i)  # type: ignore[union-attr]
                assert tar.extractfile(label).read() == data.label_bytes(i)  # type: ignore[union-attr]
                text = tar.extractfile(meta).read()  # type: ignore[union-attr]
                assert json.loads(text) == {"name": data.names[i], "width": 32, "height": 20}
                i += 1
    assert i == len(data)


def test_dali_reads_the_shards(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    root = packed(tmp_path)

    @pipeline_def(batch_size=5, num_threads=1, device_id=None)
    def shards() -> object:
        return tuple(
            fn.readers.webdataset(
                paths=[str(p) for p in sorted(root.glob("*.tar"))],
                index_paths=[str(p) for p in sorted(root.glob("*.idx"))],
                ext=["jpg", "seg.raw"],
            )
        )

    pipe = shards()
    pipe.build()
    images, labels = pipe.run()
    data = open_packed(root)
    for i in range(5):
        assert images.at(i).tobytes() == data.image_bytes(i)
        assert labels.at(i).tobytes() == data.label_bytes(i)


def test_open_by_split(tmp_path: Path) -> None:
    root = packed(tmp_path)
    (tmp_path / "both").mkdir()
    root.rename(tmp_path / "both" / "train")
    assert len(open_packed(tmp_path / "both", "train")) == 5
    assert is_packed(tmp_path / "both" / "train")
    assert not is_packed(tmp_path / "both")
    fails(lambda: open_packed(tmp_path / "both", "val"), "manifest.json", "no packed data set")
    fails(lambda: open_packed(tmp_path / "both" / "train", "val"), "'train'", "'val'")


@pytest.mark.parametrize(("member", "what"), [("image", "image"), ("label", "label")])
def test_check_names_shard_record_and_reason(tmp_path: Path, member: str, what: str) -> None:
    root = packed(tmp_path)
    flip(root / "shard-00001.tar", getattr(index_of(root, 1).records[1], member).offset + 100, 3)
    data = open_packed(root)
    fails(
        lambda: data.check(3), "shard-00001.tar", "0000003-00004", f"wrong checksum of the {what}"
    )
    for i in (0, 1, 2, 4):
        data.check(i)


def test_shard_missing_or_cut_short(tmp_path: Path) -> None:
    root = packed(tmp_path)
    data = open_packed(root)  # not yet mapped
    shard = root / "shard-00001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-700])
    fails(lambda: open_packed(root), "shard-00001.tar", "truncated")
    fails(lambda: data.image_bytes(2), "shard-00001.tar", "truncated")
    shard.unlink()
    fails(lambda: open_packed(root), "shard-00001.tar", "No such file")
    fails(lambda: data.check(2), "shard-00001.tar", "No such file")
    data.check(0)


def test_index_of_another_shard_or_set(tmp_path: Path) -> None:
    root = packed(tmp_path)
    index = root / "shard-00001.json"
    own = index.read_bytes()
    shutil.copy(root / "shard-00000.json", index)
    fails(lambda: open_packed(root), "shard-00001.json", "index of shard-00000.tar")
    index.write_bytes(own.replace(b'"00003"', b'"00033"'))
    fails(lambda: open_packed(root), "shard-00001.json", "damaged")
    shutil.copy(packed(tmp_path / "other", quality=90) / "shard-00001.json", index)
    fails(lambda: open_packed(root), "shard-00001.json", "differs from the manifest's")
    index.unlink()
    fails(lambda: open_packed(root), "shard-00001.json", "missing")


def test_index_that_points_outside(tmp_path: Path) -> None:
    root = packed(tmp_path)
    index = index_of(root, 0)
    first = index.records[0]
    far = first._replace(image=first.image._replace(size=10**9))
    far_index = replace(index, records=(far, *index.records[1:]))
    (root / "shard-00000.json").write_bytes(far_index.encode())
    fails(lambda: open_packed(root), "shard-00000.json", first.key, "outside")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"version": 1', b'"version": 2', ("version 2", "reads version 1")),
        (b'"samples": 5', b'"samples": 6', ("manifest.json", "checksum")),
        (b'"fastass-packed"', b'"something"', ("manifest.json", "something")),
        (b"}", b"", ("manifest.json", "damaged")),
        (b'"settings"', b'"sittings"', ("manifest.json", "damaged")),
    ],
)
def test_manifest_damaged_or_of_another_version(
    tmp_path: Path, old: bytes, new: bytes, words: tuple[str, ...]
) -> None:
    root = packed(tmp_path)
    path = root / "manifest.json"
    path.write_bytes(path.read_bytes().replace(old, new))
    fails(lambda: open_packed(root), *words)


def test_directory_being_written(tmp_path: Path) -> None:
    root = packed(tmp_path)
    (root / "packing.json").write_text("{}")
    fails(lambda: open_packed(root), "still being packed", "fastass pack")
    assert is_packed(root)


def test_members_that_do_not_decode(tmp_path: Path) -> None:
    root = packed(tmp_path)
    index = index_of(root, 0)
    first, second = index.records
    assert first.label is not None
    swapped = first._replace(image=first.label, label=first.image)
    replace_index(root, 0, replace(index, records=(swapped, second)))
    data = open_packed(root)
    fails(lambda: data.image(0), "shard-00000.tar", first.key, "does not decode")
    fails(lambda: data.label(0), "shard-00000.tar", first.key, "32x20")
