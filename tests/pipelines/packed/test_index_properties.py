"""Any index and any manifest of a packed directory is read as it was written."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples, values

from fastass.pipelines.datasets.classes import IGNORE, ClassTable
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.index import BadSample, Member, Record, ShardIndex, shard_name
from fastass.pipelines.packed.manifest import IMAGES, LABELS, Manifest, PackSettings

PATH = Path("packed/x.json")
texts = st.text(max_size=12)  # a file's name may hold any byte: lone surrogates too
counts = st.integers(0, (1 << 63) - 1)
members = st.builds(Member, st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 2**32 - 1))
keys = st.from_regex(r"[0-9]{7,20}-[A-Za-z0-9_-]{0,72}", fullmatch=True)
bad = st.lists(st.builds(BadSample, texts, texts), max_size=3).map(tuple)
records = st.lists(
    st.builds(
        Record, keys, texts, members, st.none() | members, members,
        histogram=st.none() | st.lists(counts, max_size=4).map(tuple),
    ),
    max_size=4,
).map(tuple)  # fmt: skip


@st.composite
def indexes(draw: st.DrawFn, classes: int | None = None) -> ShardIndex:
    pixels = st.lists(counts, min_size=classes or 0, max_size=19 if classes is None else classes)
    size = st.integers(2000, (1 << 63) - 1)
    return ShardIndex(
        shard_name(draw(st.integers(0, 99999))), draw(size), draw(texts), draw(texts),
        tuple(draw(pixels)), draw(counts), draw(bad), draw(records),
    )  # fmt: skip


@st.composite
def settings(draw: st.DrawFn) -> PackSettings:
    names = draw(st.lists(texts, min_size=1, max_size=5))
    level = st.integers(0, 255)
    rgb = st.tuples(level, level, level)
    train_id = st.integers(0, len(names) - 1) | st.just(IGNORE)
    return PackSettings(
        layout=draw(texts), split=draw(texts),
        classes=ClassTable(
            draw(texts), tuple(names),
            tuple(draw(st.lists(rgb, min_size=len(names), max_size=len(names)))),
            draw(st.dictionaries(st.integers(0, 65535), train_id, min_size=1, max_size=5)),
            draw(st.booleans()),
        ),
        size=(draw(st.integers(1, 1 << 20)), draw(st.integers(1, 1 << 20))),
        image=draw(st.sampled_from(IMAGES)), label=draw(st.sampled_from((*LABELS, None))),
        encoder=draw(st.dictionaries(texts, st.integers() | texts, max_size=3)),
        records_per_shard=draw(st.integers(1, 1000)),
    )  # fmt: skip


@examples()
@given(indexes())
def test_an_index_is_read_as_written(index: ShardIndex) -> None:
    assert ShardIndex.decode(index.encode(), PATH, index.shard) == index
    with pytest.raises(DataError, match="is the index of"):
        ShardIndex.decode(index.encode(), PATH, "another")


@examples()
@given(settings(), st.data())
def test_a_manifest_is_read_as_written_and_sums_its_shards(
    chosen: PackSettings, data: st.DataObject
) -> None:
    shards = data.draw(st.lists(indexes(len(chosen.classes)), min_size=1, max_size=3))
    shards = [s for s in shards if sum(s.class_pixels) + s.ignored_pixels < 1 << 60] or shards[:1]
    manifest = Manifest.summarise(chosen, shards)
    assert Manifest.decode(manifest.encode(), PATH) == manifest
    every = [record for shard in shards for record in shard.records]
    assert manifest.samples == len(every) == sum(shard.records for shard in manifest.shards)
    assert manifest.labelled == sum(record.label is not None for record in every)
    for k in range(len(chosen.classes)):
        assert manifest.class_pixels[k] == sum(shard.class_pixels[k] for shard in shards)


@examples()
@given(settings(), settings())
def test_settings_differ_where_a_field_does(one: PackSettings, other: PackSettings) -> None:
    assert PackSettings.from_json(one.to_json()) == one
    assert not one.differences(one)
    assert bool(one.differences(other)) == (one != other)


@examples(2)
@given(indexes(), st.integers(0), st.integers(1, 255))
def test_a_changed_byte_is_noticed(index: ShardIndex, at: int, by: int) -> None:
    data = bytearray(index.encode())
    data[at % len(data)] ^= by
    try:
        assert ShardIndex.decode(bytes(data), PATH, index.shard) == index  # white space
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017


@examples(2)
@given(values | st.binary(max_size=60), st.sampled_from(["settings", "shards", "bad", "samples"]))
def test_anything_else_is_refused_in_one_line(value: Any, key: str) -> None:
    content = value if isinstance(value, bytes) else json.dumps({key: value}).encode()
    for decode in (Manifest.decode, lambda data, path: ShardIndex.decode(data, path, "x")):
        with pytest.raises(DataError) as caught:
            decode(content, PATH)
        assert "\n" not in str(caught.value)
