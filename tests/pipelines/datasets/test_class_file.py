from pathlib import Path

import pytest

from fastass.pipelines.datasets.class_file import read_class_file
from fastass.pipelines.errors import DataError


def test_full_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        "names: [road, car]\nids: [7, 26]\ncolors: [[1, 2, 3], [4, 5, 6]]\nignore: [0, 300]\n"
    )
    table = read_class_file(path)
    assert table.names == ("road", "car")
    assert table.colors == ((1, 2, 3), (4, 5, 6))
    assert dict(table.train_ids) == {7: 0, 26: 1, 0: 255, 300: 255, 255: 255}


def test_defaults(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("names: [a, b, c]\n")
    table = read_class_file(path)
    assert dict(table.train_ids) == {0: 0, 1: 1, 2: 2, 255: 255}
    assert len(set(table.colors)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, a]", "names: 'a' occurs twice"),
        ("names: []", "1 to 255 class names"),
        ("names: road", "names must be a list"),
        ("ids: [1]", "names must be a list"),
        ("names: [a, b]\nids: [1]", "1 ids for 2 names"),
        ("names: [a]\nids: [255]", "255 always means ignored"),
        ("names: [a]\nids: [-1]", "-1 is not a label value"),
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
    with pytest.raises(DataError, match="no such file"):
        read_class_file(tmp_path / "classes.yaml")
