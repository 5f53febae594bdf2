"""Any class file that is as described is read as written; any other is refused in one line.

And what its table does to labels, pixel by pixel.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from properties import examples, texts, values

from fastass.pipelines.datasets.class_file import _KEYS, read_class_file
from fastass.pipelines.datasets.classes import IGNORE, ClassTable
from fastass.pipelines.datasets.image_file import SUFFIXES
from fastass.pipelines.datasets.yaml_file import Dumper
from fastass.pipelines.errors import LONGEST, DataError

colors = st.lists(st.integers(0, 255), min_size=3, max_size=3)
class_names = texts.filter(lambda text: text.isprintable() and text.strip() == text != "")
suffixes = texts.filter(lambda text: "/" not in text and not text.lower().endswith(SUFFIXES))


def as_written(draw: st.DrawFn, raw: list[int]) -> Any:
    """Label values as a file may write them: a number, a range where they follow, or a list."""
    ways: list[Any] = [raw]
    if len(raw) == 1:
        ways.append(raw[0])
    if raw == [*range(raw[0], raw[0] + len(raw))]:
        ways += [f"{raw[0]}-{raw[-1]}", [f" {raw[0]} - {raw[-1]} "]]
    return draw(st.sampled_from(ways))


@st.composite
def class_files(draw: st.DrawFn) -> tuple[dict[str, Any], ClassTable]:
    """The content of a class file, and the table that it describes."""
    names = draw(st.lists(class_names, min_size=1, max_size=6, unique=True))
    starts = st.integers(0, 200)
    raw: list[int] = []
    for start, length in draw(st.lists(st.tuples(starts, st.integers(1, 4)), max_size=20)):
        raw += [value for value in range(start, start + length) if value not in raw]
    raw += [value for value in range(300, 300 + len(names)) if len(raw) < len(names) or value < 303]
    cuts = sorted(draw(st.permutations(range(1, len(raw))))[: len(names) - 1])
    groups = [raw[a:b] for a, b in itertools.pairwise([0, *cuts, len(raw)])]
    ignored = draw(st.lists(st.integers(400, 65535), max_size=3, unique=True))
    others = draw(st.booleans())
    rgb = draw(st.lists(colors, min_size=len(names), max_size=len(names)))
    content: dict[str, Any] = {
        "names": names,
        "ids": [as_written(draw, group) for group in groups],
        "colors": rgb,
        "ignore": "others" if others else ignored,
    }
    train_ids = {255: IGNORE} | ({} if others else dict.fromkeys(ignored, IGNORE))
    train_ids |= {value: i for i, group in enumerate(groups) for value in group}
    triples = tuple((r, g, b) for r, g, b in rgb)
    return content, ClassTable("folder", tuple(names), triples, train_ids, others)


class WithoutAliases(Dumper):
    """Class files may not have them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(path: Path, content: Any) -> Path:
    # allow_unicode would let PyYAML write line breaks of Unicode that it reads as spaces.
    path.write_text(yaml.dump(content, Dumper=WithoutAliases), encoding="utf-8")
    return path


@examples(2)
@given(class_files(), suffixes, suffixes, st.booleans())
def test_a_class_file_is_read_as_written(
    tmp_path: Path,
    described: tuple[dict[str, Any], ClassTable],
    image: str,
    label: str,
    splits: bool,
) -> None:
    content, table = described
    content |= {"image_suffix": image, "label_suffix": label, "splits": splits}
    file = read_class_file(write(tmp_path / "classes.yaml", content))
    assert file.table == table
    assert (file.image_suffix, file.label_suffix, file.splits) == (image, label, splits)


def used_or_refused(path: Path) -> None:
    try:
        read_class_file(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) <= LONGEST + 3  # noqa: PT017


@examples(2)
@given(class_files(), st.sampled_from(_KEYS), values)
def test_any_value_is_used_or_refused(
    tmp_path: Path, described: tuple[dict[str, Any], ClassTable], key: str, value: Any
) -> None:
    used_or_refused(write(tmp_path / "classes.yaml", described[0] | {key: value}))


@examples()
@given(class_files(), texts.filter(lambda key: key not in _KEYS), values)
def test_an_unknown_key_is_refused(
    tmp_path: Path, described: tuple[dict[str, Any], ClassTable], key: str, value: Any
) -> None:
    path = write(tmp_path / "classes.yaml", described[0] | {key: value})
    with pytest.raises(DataError, match="unknown key") as caught:
        read_class_file(path)
    assert "\n" not in str(caught.value)


@examples(2)
@given(values | st.dictionaries(st.sampled_from(_KEYS) | texts, values, max_size=4))
def test_any_file_is_used_or_refused(tmp_path: Path, content: Any) -> None:
    used_or_refused(write(tmp_path / "classes.yaml", content))


@st.composite
def labels(draw: st.DrawFn) -> tuple[ClassTable, np.ndarray]:
    """A table, and label values [2,N] of which most are in it."""
    _, table = draw(class_files())
    dtype: Any = draw(st.sampled_from([np.uint8, np.uint16]))
    top = np.iinfo(dtype).max
    known = st.sampled_from([value for value in table.train_ids if value <= top])
    value = known | st.integers(0, int(top)) if draw(st.booleans()) else known
    raw = draw(st.lists(value, max_size=12))
    return table, np.array([raw, raw[::-1]], dtype)


@examples(3)
@given(labels())
def test_labels_are_encoded_pixel_by_pixel(labelled: tuple[ClassTable, np.ndarray]) -> None:
    table, raw = labelled
    unknown = sorted({*raw.flatten().tolist()} - {*table.train_ids})
    if unknown and not table.ignore_others:
        with pytest.raises(DataError, match=f"a.png: label value {unknown[0]} is not listed"):
            table.encode(raw, "a.png")
        return
    encoded = table.encode(raw, "a.png")
    assert encoded.dtype == np.uint8
    wanted = [[table.train_ids.get(int(value), IGNORE) for value in row] for row in raw]
    assert encoded.tolist() == wanted


@examples()
@given(labels(), st.randoms(use_true_random=False))
def test_a_subset_renumbers_what_it_keeps(
    labelled: tuple[ClassTable, np.ndarray], draw: Any
) -> None:
    table, raw = labelled
    keep = draw.sample(table.names, draw.randint(1, len(table.names)))
    part = table.subset(keep)
    assert part.names == tuple(keep)
    assert (
        dict(zip(part.names, part.colors, strict=True)).items()
        <= dict(zip(table.names, table.colors, strict=True)).items()
    )
    if table.ignore_others or {*raw.flatten().tolist()} <= {*table.train_ids}:
        new_id = {table.names.index(name): i for i, name in enumerate(keep)}
        whole = table.encode(raw, "a.png")
        wanted = [[new_id.get(int(train_id), IGNORE) for train_id in row] for row in whole]
        assert part.encode(raw, "a.png").tolist() == wanted
