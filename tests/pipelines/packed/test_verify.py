import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from packed_files import fails, flip, index_of, packed, replace_index

from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.index import Record
from fastass.pipelines.packed.verify import verify

SHARD = "shard-00001.tar"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "packed"))


def record(root: Path) -> Record:
    """The second record of the second shard."""
    return index_of(root, 1).records[1]


def expect(root: Path, *wanted: tuple[str, str, str]) -> None:
    """verify finds exactly these: file, key of the record or "", part of the reason."""
    damages = verify(root).damages
    assert len(damages) == len(wanted), list(map(str, damages))
    for damage, (file, key, words) in zip(damages, wanted, strict=True):
        assert (damage.file, damage.record) == (file, key)
        assert words in damage.reason
        assert "\n" not in str(damage)


def test_sound(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = verify(root, progress=lambda done, of: calls.append((done, of)))
    assert (report.shards, report.records, report.damages) == (3, 5, ())
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_workers(root: Path) -> None:
    flip(root / SHARD, record(root).image.offset + 5)
    assert verify(root, workers=2) == verify(root)


def test_flipped_bits(root: Path) -> None:
    stored = record(root)
    assert stored.label is not None
    path, key = root / SHARD, stored.key
    flip(path, stored.image.offset + 200)
    flip(path, stored.label.offset + 3)
    flip(path, stored.label.offset - 512 + 120)  # the header's group
    flip(path, stored.meta.offset)
    flip(path, stored.meta.offset + stored.meta.size + 9)
    flip(path, -1)
    expect(
        root,
        (SHARD, key, "wrong checksum of .jpg"),
        (SHARD, key, ".seg.raw is damaged"),
        (SHARD, key, "wrong checksum of .seg.raw"),
        (SHARD, key, "wrong checksum of .json"),
        (SHARD, key, "padding after .json"),
        (SHARD, "", "continues after"),
    )


def test_cut_short(root: Path) -> None:
    stored = record(root)
    path = root / SHARD
    path.write_bytes(path.read_bytes()[: stored.image.offset + 10])
    expect(
        root,
        (SHARD, "", "truncated"),
        (SHARD, stored.key, ".jpg lies beyond"),
        (SHARD, stored.key, ".seg.raw lies beyond"),
        (SHARD, stored.key, ".json lies beyond"),
    )


def test_longer(root: Path) -> None:
    with (root / SHARD).open("ab") as file:
        file.write(b"more")
    expect(root, (SHARD, "", "changed"))


@pytest.mark.parametrize("kept", [0, None])
def test_empty_or_missing(root: Path, kept: int | None) -> None:
    (root / SHARD).unlink()
    if kept is not None:
        (root / SHARD).touch()
    expect(root, (SHARD, "", "No such file" if kept is None else "truncated"))


def test_of_another_set(root: Path) -> None:
    shutil.copy(root / "shard-00000.tar", root / SHARD)
    reasons = " ".join(damage.reason for damage in verify(root).damages)
    assert "'0000000-00001.jpg' found where the index has '0000002-00003.jpg'" in reasons


def test_names_that_leave_the_directory(root: Path) -> None:
    stored = record(root)
    with (root / SHARD).open("r+b") as file:
        for member, info in (
            (stored.image, tarfile.TarInfo("../../etc/passwd")),
            (stored.meta, tarfile.TarInfo("/etc/passwd")),
        ):
            info.size = member.size
            file.seek(member.offset - 512)
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
    expect(
        root,
        (SHARD, stored.key, "'../../etc/passwd' would leave the directory"),
        (SHARD, stored.key, "'/etc/passwd' would leave the directory"),
    )


def test_links(root: Path) -> None:
    stored = record(root)
    info = tarfile.TarInfo(f"{stored.key}.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with (root / SHARD).open("r+b") as file:
        file.seek(stored.image.offset - 512)
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
    expect(root, (SHARD, stored.key, "is a link"))


def test_indices(root: Path) -> None:
    (root / "shard-00000.json").write_bytes((root / "shard-00001.json").read_bytes())
    (root / "shard-00001.idx").write_bytes((root / "shard-00000.idx").read_bytes())
    (root / "shard-00002.idx").unlink()
    shutil.copy(root / SHARD, root / "shard-00007.tar")
    expect(
        root,
        ("shard-00007.tar", "", "not in the manifest"),
        ("shard-00000.json", "", "index of shard-00001.tar"),
        ("shard-00001.idx", "", "does not match its shard"),
        ("shard-00002.idx", "", "missing"),
    )


def store(root: Path, data: bytes, suffix: str) -> str:
    """Replace a member, its checksum, its index and the manifest, as a wrong writer would."""
    index = index_of(root, 1)
    stored = record(root)
    member = stored.label if suffix == ".seg.raw" else stored.image
    assert member is not None
    data = data.ljust(member.size, b"\0")
    assert len(data) == member.size
    with (root / SHARD).open("r+b") as file:
        file.seek(member.offset)
        file.write(data)
    member = member._replace(crc32=crc32(data))
    if suffix == ".seg.raw":
        changed = stored._replace(label=member)
    else:
        changed = stored._replace(image=member)
    replace_index(root, 1, replace(index, records=(index.records[0], changed)))
    return stored.key


def test_label_outside_the_table(root: Path) -> None:
    key = store(root, bytes([77]) * 640, ".seg.raw")
    expect(root, (SHARD, key, "label value 77 is outside its 19 classes"))


def test_image_that_does_not_decode(root: Path) -> None:
    key = store(root, b"no image", ".seg.jpg")
    expect(root, (SHARD, key, "does not decode"))


def test_class_pixels(root: Path) -> None:
    key = store(root, bytes(640), ".seg.raw")
    expect(root, (SHARD, key, "class pixels"))


def test_class_pixels_of_a_directory_without_histograms(root: Path) -> None:
    store(root, bytes(640), ".seg.raw")
    index = index_of(root, 1)
    bare = tuple(record._replace(histogram=None) for record in index.records)
    replace_index(root, 1, replace(index, records=bare))
    expect(root, (SHARD, "", "class pixels"))


def test_counts_of_the_manifest(root: Path) -> None:
    from fastass.pipelines.packed.manifest import Manifest

    path = root / "manifest.json"
    manifest = Manifest.decode(path.read_bytes(), path)
    path.write_bytes(replace(manifest, labelled=4).encode())
    expect(root, ("manifest.json", "", "counts"))


@pytest.mark.parametrize("name", ["shard-00001.json", "manifest.json"])
def test_no_bit_of_the_json_files_may_flip(root: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    whole = (root / name).read_bytes()
    for _ in range(40):
        flip(root / name, int(rng.integers(len(whole))), int(rng.integers(8)))
        assert damaged(lambda: verify(root).damages)
        (root / name).write_bytes(whole)


def test_no_bit_of_a_shard_may_flip(root: Path) -> None:
    rng = np.random.default_rng(1)
    whole = (root / SHARD).read_bytes()
    for _ in range(60):
        flip(root / SHARD, int(rng.integers(len(whole))), int(rng.integers(8)))
        assert damaged(lambda: verify(root).damages)
        (root / SHARD).write_bytes(whole)


def damaged(call: Callable[[], tuple[object, ...]]) -> bool:
    try:
        return bool(call())
    except DataError:
        return True


def test_unreadable_as_a_whole(root: Path, tmp_path: Path) -> None:
    fails(lambda: verify(tmp_path / "none"), "none/manifest.json", "missing")
    tree = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(tree | {"version": 3}))
    fails(lambda: verify(root), "version 3")
    (root / "packing.json").touch()
    fails(lambda: verify(root), "still being packed")
