"""Packs small data sets, and damages them, for the tests."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest

from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.index import ShardIndex, index_name, shard_name
from fastass.pipelines.packed.manifest import Manifest
from fastass.pipelines.packed.pack import pack

SIZE = (32, 20)


def packed(tmp_path: Path, count: int = 5, **options: Any) -> Path:
    """A packed GTA5 data set of `count` samples in shards of two: `tmp_path/packed`."""
    dataset = open_dataset(files.gta5(tmp_path / "source", count))
    options = {"workers": 1, "records_per_shard": 2, **options}
    assert pack(dataset, tmp_path / "packed", SIZE, **options).complete
    return tmp_path / "packed"


def content(root: Path) -> dict[str, str]:
    """File name → SHA-256, of a whole directory."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.iterdir()}


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit of the byte at offset `at` (negative: from the end)."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def index_of(root: Path, number: int) -> ShardIndex:
    path = root / index_name(number)
    return ShardIndex.decode(path.read_bytes(), path, shard_name(number))


def replace_index(root: Path, number: int, index: ShardIndex) -> None:
    """Store another index for a shard, and a manifest that fits it."""
    path = root / "manifest.json"
    settings = Manifest.decode(path.read_bytes(), path).settings
    (root / index_name(number)).write_bytes(index.encode())
    count = len(list(root.glob("shard-*.tar")))
    indices = [index_of(root, i) for i in range(count)]
    path.write_bytes(Manifest.summarise(settings, indices).encode())


def fails(call: Callable[[], object], *words: str) -> None:
    """The call raises DataError: one line that has all the words."""
    with pytest.raises(DataError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert re.search(re.escape(word), text), f"{word!r} is not in {text!r}"
