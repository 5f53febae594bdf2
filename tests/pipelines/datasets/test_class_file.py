import time
from pathlib import Path

import numpy as np
import pytest

from fastass.kernels.upsample import grid
from fastass.pipelines.datasets.class_file import read_class_file
from fastass.pipelines.datasets.classes import MAX_CLASSES
from fastass.pipelines.errors import DataError


def test_full_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        "names: [road, car]\nids: [7, 26]\ncolors: [[1, 2, 3], [4, 5, 6]]\nignore: [0, 300]\n"
    )
    table = read_class_file(path).table
    assert table.names == ("road", "car")
    assert table.colors == ((1, 2, 3), (4, 5, 6))
    assert dict(table.train_ids) == {7: 0, 26: 1, 0: 255, 300: 255, 255: 255}


def test_numbers_and_names_are_read_as_people_mean_them(tmp_path: Path) -> None:
    """YAML 1.1 reads 007, 011 as 7, 9 and yes, no, on as true, false, true."""
    path = tmp_path / "classes.yaml"
    path.write_text("names: [yes, no, on]\nids: [007, 011, [08, 21]]\n")
    table = read_class_file(path).table
    assert table.names == ("yes", "no", "on")
    assert dict(table.train_ids) == {7: 0, 11: 1, 8: 2, 21: 2, 255: 255}


def test_defaults(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("names: [a, b, c]\n")
    table = read_class_file(path).table
    assert dict(table.train_ids) == {0: 0, 1: 1, 2: 2, 255: 255}
    assert len(set(table.colors)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, a]", "names: 'a' occurs twice"),
        ("names: []", "1 to 64 class names"),
        (f"names: [{', '.join(f'c{i}' for i in range(65))}]", "1 to 64 class names"),
        ("names: [1]", "1 is no class name"),
        ("names: [a, ~]", "None is no class name"),
        (r'names: [a, "\e]0;x\a"]', "is no class name"),
        ("names: [a, 'b ']", "'b ' is no class name"),
        ("names: [a]\nlabel_suffix: _L.png", "label_suffix must be the end of a file name"),
        ("names: [a]\nids: [1:30]", "'1:30' is not a label value"),
        ("names: [a]\nids: [0x1f]", "'0x1f' is not a label value"),
        ("names: road", "names must be a list"),
        ("ids: [1]", "names must be a list"),
        ("names: [a, b]\nids: [1]", "1 ids for 2 names"),
        ("names: [a]\nids: [-1]", "-1 is not a label value"),
        ("names: [a]\nids: [true]", "True is not a label value"),
        ("names: [a]\nids: [65536]", "65536 is not a label value"),
        ("names: [a]\nids: [7-5]", "'7-5' is not a label value"),
        ("names: [a]\nids: [[[1]]]", r"\[1\] is not a label value"),
        ("names: [a]\nids: [[]]", "a class without label values"),
        ("names: [a, b]\nids: [1-5, [7, 3]]", "3 occurs twice"),
        ("names: [a]\nids: [3]\nignore: [0-9]", "3 occurs twice"),
        ("names: [a]\nignore: rest", "ignore must be a list"),
        ("names: [a]\nsplits: [train]", "splits must be true or false"),
        ("names: [a]\nlabel_suffix: ../x", "label_suffix must be the end of a file name"),
        ("names: [a]\nimage_suffix: 3", "image_suffix must be the end of a file name"),
        ("names: [a]\nnames: [b]", "the key 'names' occurs twice"),
        ("names: [a]\nids: [3]\nignore: [3]", "3 occurs twice"),
        ("names: [a]\ncolors: [[1, 2]]", "is not .red, green, blue."),
        ("names: [a]\ncolours: []", "unknown key 'colours'"),
        ("names: [a", "not valid YAML"),
        ("- a", "must hold keys"),
    ],
)
def test_each_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_class_file(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_class_file(tmp_path / "classes.yaml")


def test_many_values_of_one_class(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text('names: [a, b, c]\nids: [23, [19, 20], "24-26"]\nignore: [0, "30 - 31"]\n')
    table = read_class_file(path).table
    raw = np.array([[23, 19, 20, 24, 25, 26, 0, 30, 31, 255]], np.uint8)
    assert table.encode(raw, "x").tolist() == [[0, 1, 1, 2, 2, 2, 255, 255, 255, 255]]
    message = "x: label value 22 is not listed in classes.yaml: add it to ids or ignore"
    with pytest.raises(DataError, match=message):
        table.encode(np.array([[22]], np.uint8), "x")


def test_all_others_ignored(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("names: [a, b]\nids: [23, 300]\nignore: others\n")
    table = read_class_file(path).table
    for name, wanted in (("a", [0, 255, 255, 255]), ("b", [255, 0, 255, 255])):
        raw = np.array([[23, 300, 254, 65535]], np.uint16)
        assert table.subset([name]).encode(raw, "x").tolist() == [wanted]
    assert table.encode(raw, "x").tolist() == [[0, 1, 255, 255]]


def test_a_class_may_have_255(tmp_path: Path) -> None:
    """Masks of 0 and 255."""
    path = tmp_path / "classes.yaml"
    path.write_text("names: [road, crack]\nids: [0, 255]\n")
    table = read_class_file(path).table
    assert table.encode(np.array([[0, 255]], np.uint8), "x").tolist() == [[0, 1]]


def test_suffixes_and_splits(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("names: [a]\nimage_suffix: _img\nlabel_suffix: _labelIds\nsplits: false\n")
    file = read_class_file(path)
    assert (file.image_suffix, file.label_suffix, file.splits) == ("_img", "_labelIds", False)


def test_the_limit_of_classes_is_the_kernels() -> None:
    assert MAX_CLASSES == grid.MAX_CLASSES


ALIASES = "a: &a [x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ALIASES.encode(), "aliases"),
        (b"names: &a [*a]", "aliases"),
        (b"[" * 100_000, "not valid YAML"),
        (b"names: [\xff]", "not valid YAML"),
        (b"names: [" + b"9" * 5000 + b"]", "not valid YAML"),
        (b"? [a]\n: b", "not valid YAML"),
        (b"!!python/object/apply:os.system [id]", "not valid YAML"),
        (b"#" * (1 << 18) + b"\nnames: [a]", "bytes, more than"),
        (b"names: [a]\nids: [[" + b"0-65535, " * 20_000 + b"]]", "0 occurs twice"),
        (b"names: " + b"[a, " * 20_000, "not valid YAML"),
        (b"", "must hold keys"),
    ],
)
def test_a_hostile_file_is_one_line_soon(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_bytes(data)
    begin = time.monotonic()
    with pytest.raises(DataError, match=message) as error:
        read_class_file(path)
    assert time.monotonic() - begin < 5
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
