"""Data sets by import path and by entry point."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastass.pipelines.datasets import custom_layout
from fastass.pipelines.datasets.decode import read_label
from fastass.pipelines.datasets.layouts import LAYOUTS, open_dataset
from fastass.pipelines.errors import DataError

MODULE = """
from pathlib import Path
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.datasets.custom_layout import CustomLayout
from fastass.pipelines.datasets.layouts import Dataset, Sample

TABLE = ClassTable("mine", ("road", "other"), ((0, 0, 0), (255, 255, 255)), {1: 0, 2: 1})

@CustomLayout
def flat(root: Path, split: str, labels: str) -> Dataset:
    samples = [
        Sample(path.stem, path, path.with_name(path.stem + "_label.png"))
        for path in (root / split).glob("*.jpg")
    ]
    return Dataset("flat", root, split, TABLE, tuple(samples))

@CustomLayout
def bare(root: Path, split: str, labels: str) -> Dataset:
    return Dataset("bare", root, split, TABLE, (Sample("a", root / "a.jpg", None),))

@CustomLayout
def wrong(root: Path, split: str, labels: str) -> str:
    return "nothing"

def plain(root: Path, split: str, labels: str) -> None:
    raise AssertionError("called, although it is no CustomLayout")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "city_plugin.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "city_plugin", raising=False)
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    for name in ("b", "a"):
        Image.new("RGB", (4, 2), "red").save(folder / f"{name}.jpg")
        label = np.array([[1, 1, 2, 2], [1, 1, 2, 2]], np.uint8)
        Image.fromarray(label).save(folder / f"{name}_label.png")
    return "city_plugin"


def test_import_path(module: str, tmp_path: Path) -> None:
    data = open_dataset(tmp_path / "data", f"{module}:flat")
    assert [sample.name for sample in data.samples] == ["a", "b"]
    assert data.layout == "city_plugin:flat"
    assert read_label(data, data.samples[0])[0].tolist() == [0, 0, 1, 1]


def test_entry_point(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("flat", f"{module}:flat", custom_layout.GROUP)
    monkeypatch.setattr(custom_layout, "entry_points", lambda group: EntryPoints([point]))
    assert len(open_dataset(tmp_path / "data", "flat")) == 2


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("gta6", f"'gta6' is unknown; choose one of auto, {', '.join(LAYOUTS)}, or MODULE:NAME"),
        ("nowhere_to_be_found:x", "No module named 'nowhere_to_be_found'; is the module installed"),
        ("city_plugin:x", "has no attribute 'x'"),
        ("city_plugin:plain", "expected a CustomLayout, got a function"),
        ("os:system", "expected a CustomLayout"),
        ("city_plugin:wrong", "returned str, not a Dataset"),
        ("city_plugin:bare", "a: image without label"),
    ],
)
def test_what_is_no_layout(module: str, tmp_path: Path, layout: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "data", layout)


def test_a_split_without_images(module: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no images of split val"):
        open_dataset(tmp_path / "data", f"{module}:flat", "val")
