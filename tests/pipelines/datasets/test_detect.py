"""The layout is never guessed past a missing file.

Looked at: detect_layout (all four layouts; own data without, or with a misnamed, class file; a
class file beside another layout's folders), `is_packed` (a directory of shards without its
manifest is no layout either).
"""

from pathlib import Path

import dataset_files as files
import pytest
from packed_files import packed

from fastass.pipelines.datasets.layouts import detect_layout, open_dataset
from fastass.pipelines.errors import DataError


@pytest.mark.parametrize(
    "name",
    [
        "classes.yml",
        "Classes.yaml",
        "classes.YAML",
        "classes.yaml.txt",
        "class.yaml",
        "classes.json",
        "classes.txt",
        "classes",
    ],
)
def test_a_misnamed_class_file(tmp_path: Path, name: str) -> None:
    root = files.folder(tmp_path)
    (root / "classes.yaml").rename(root / name)
    with pytest.raises(DataError, match=rf"found {name}, but .* must be a file classes.yaml"):
        open_dataset(root)


def test_a_class_file_that_is_a_dead_link_or_a_folder(tmp_path: Path) -> None:
    root = files.folder(tmp_path)
    (root / "classes.yaml").unlink()
    (root / "classes.yaml").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"classes.yaml: cannot be read: No such file"):
        open_dataset(root)
    (root / "classes.yaml").unlink()
    (root / "classes.yaml").mkdir()
    with pytest.raises(DataError, match=r"found classes.yaml, but"):
        open_dataset(root)


@pytest.mark.parametrize("name", ["0", "frame_00001", "000001", "1"])
def test_own_data_without_class_file_are_not_gta5(tmp_path: Path, name: str) -> None:
    root = files.gta5(tmp_path, 2)
    for kind in ("images", "labels"):
        (root / kind / "00002.png").rename(root / kind / f"{name}.png")
    with pytest.raises(DataError, match=rf"images/{name}.png is no name of GTA5.*classes.yaml"):
        open_dataset(root)
    assert len(open_dataset(root, "gta5")) == 2  # asked for by name


@pytest.mark.parametrize("layout", ["cityscapes", "synthia"])
def test_a_class_file_that_would_not_be_read(tmp_path: Path, layout: str) -> None:
    root = getattr(files, layout)(tmp_path)
    (root / "classes.yaml").write_text("names: [a]")
    with pytest.raises(DataError, match=f"pass --layout {layout}, or --layout folder"):
        detect_layout(root)
    assert len(open_dataset(root, layout)) == 3


def test_shards_without_their_manifest(tmp_path: Path) -> None:
    root = packed(tmp_path, 1)
    (root / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"layout not recognised.*found shard-00000"):
        open_dataset(root)
