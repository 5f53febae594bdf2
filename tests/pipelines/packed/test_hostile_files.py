"""Packed directories from strangers: each JSON value replaced, each byte changed.

Every reader of a packed directory is tried: the manifest, the mark, the indexes (each with a
checksum that fits what was changed), shards and their DALI index; by `open_packed`, by reading all
records, by `verify` and by `pack`, which finds the directory unfinished.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import dataset_files as files
import pytest
from dataset_files import mutated
from packed_files import SIZE, packed

from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import LONGEST, DataError
from fastass.pipelines.packed.dataset import open_packed
from fastass.pipelines.packed.index import digest
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.packed.verify import verify

T = TypeVar("T")
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 40,
    1 << 64,
    float("inf"),
    float("nan"),
    0.5,
    "",
    "x",
    "\udcff",
    "9" * 5000,
    [],
    [[]],
    [1, 2],
    {},
    {"a": 1},
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("sound"), 3)


def one_line(call: Callable[[], T]) -> T | None:
    """The result of a call; None for a DataError, whose message must be one line."""
    try:
        return call()
    except DataError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) <= LONGEST + 3
    return None


def read_all(root: Path) -> None:
    """Everything that reads the directory; any error but a DataError fails the test."""
    data = one_line(lambda: open_packed(root))
    if data is not None:
        for i in range(len(data)):
            for read in (data.check, data.image, data.label):
                one_line(partial(read, i))
    report = one_line(lambda: verify(root))
    for damage in () if report is None else report.damages:
        assert "\n" not in str(damage)


def leaves(tree: Any) -> Iterator[Callable[[Any], None]]:
    """A setter for each value in a JSON tree, containers included; of a long uniform list, one."""
    if isinstance(tree, dict):
        items = list(tree.items())
    else:
        mixed = len({type(value) for value in tree}) > 1 or len(tree) < 4
        items = list(enumerate(tree[: 9 if mixed else 1]))
    for key, value in items:
        yield partial(tree.__setitem__, key)
        if isinstance(value, dict | list):
            yield from leaves(value)


def replace_values(sound: Path, root: Path, name: str, every: int) -> int:
    """Replaces each value of a JSON file by every n-th hostile one; checksums are made to fit."""
    shutil.copytree(sound, root)
    manifest = json.loads((root / "manifest.json").read_text())
    count = 0
    for number in range(len(list(leaves(json.loads((root / name).read_text()))))):
        for value in HOSTILE[number % every :: every]:
            tree = json.loads((sound / name).read_text())
            list(leaves(tree))[number](value)
            tree.pop("sha256", None)
            data = json.dumps({**tree, "sha256": digest(tree)}).encode()
            (root / name).write_bytes(data)
            if name != "manifest.json":
                manifest["shards"][0][2] = sha256(data).hexdigest()
                manifest.pop("sha256", None)
                manifest["sha256"] = digest(manifest)
                (root / "manifest.json").write_text(json.dumps(manifest))
            read_all(root)
            count += 1
    return count


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.json"])
def test_values_replaced(sound: Path, tmp_path: Path, name: str) -> None:
    assert replace_values(sound, tmp_path / "packed", name, 6) > 70


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.json"])
def test_all_values_replaced(sound: Path, tmp_path: Path, name: str) -> None:
    assert replace_values(sound, tmp_path / "packed", name, 1) > 450


@pytest.mark.parametrize("name", ["manifest.json", "packing.json", "shard-00000.json"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"null",
        b"[]",
        b"1e999",
        b"{}",
        b'{"format": "fastass-packed", "version": [1, 2]}',
        b"9" * 5000,
    ],
)
def test_foreign_content(sound: Path, tmp_path: Path, name: str, data: bytes) -> None:
    root = tmp_path / "packed"
    shutil.copytree(sound, root)
    (root / name).write_bytes(data)
    with pytest.raises(DataError, match=r"damaged|not finished|version"):
        open_packed(root)
    read_all(root)
    dataset = open_dataset(files.gta5(tmp_path / "gta5", 3))
    if name == "packing.json":
        with pytest.raises(DataError, match=r"packing.json: is damaged; remove"):
            pack(dataset, root, SIZE, workers=1, records_per_shard=2)
    else:  # repaired
        assert pack(dataset, root, SIZE, workers=1, records_per_shard=2).complete
        assert not verify(root).damages


def mutate_files(sound: Path, root: Path, rounds: int) -> int:
    """Bytes flipped, cut out, doubled, in each file of the directory in turn."""
    generator = random.Random(20_240_117)
    shutil.copytree(sound, root)
    for path in sorted(root.iterdir()):
        good = path.read_bytes()
        for _ in range(rounds):
            path.write_bytes(mutated(good, generator))
            read_all(root)
        path.write_bytes(good)
    return rounds * len(list(root.iterdir()))


def test_mutated_files(sound: Path, tmp_path: Path) -> None:
    assert mutate_files(sound, tmp_path / "packed", 10) == 70


@pytest.mark.slow
def test_many_mutated_files(sound: Path, tmp_path: Path) -> None:
    assert mutate_files(sound, tmp_path / "packed", 600) == 4200
