"""A class that no label shows is reported: by `pack`, and by training for masks of 0 and 255."""

from pathlib import Path

import dataset_files as files
import numpy as np
import pytest

from fastass.cli.main import main
from fastass.config.schema import Config, DataConfig
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.datasets.mask_check import mask_warning
from fastass.tracking.terminal import reporter
from fastass.training.open_data import open_training_data

WARNING = "the labels hold only 0 and 255, and 255 is ignored, so no pixel is crack"


def masks(root: Path, classes: str, values: tuple[int, int] = (0, 255)) -> Path:
    """Own data with labels of two values."""
    files.folder(root)
    for i in range(3):
        label = np.where(files.blocks(24, 40, 2, i) > 0, *values).astype(np.uint8)
        files.write_image(root / f"labels/{i}.png", label)
    (root / "classes.yaml").write_text(classes)
    return root


@pytest.mark.parametrize(
    ("classes", "values", "warned"),
    [
        ("names: [road, crack]\n", (0, 255), True),
        ("names: [road, crack]\nids: [0, 255]\n", (0, 255), False),
        ("names: [road, crack]\n", (0, 1), False),
        ("names: [road, crack]\n", (1, 255), False),
        ("names: [road]\n", (0, 255), False),
        ("names: [road, crack]\nids: [0, [7, 8]]\nignore: others\n", (0, 255), True),
    ],
)
def test_masks_of_own_data(
    tmp_path: Path, classes: str, values: tuple[int, int], warned: bool
) -> None:
    line = mask_warning(open_dataset(masks(tmp_path, classes, values)))
    assert (line is not None and WARNING in line) == warned


def test_damaged_labels_are_left_to_the_loader(tmp_path: Path) -> None:
    root = masks(tmp_path, "names: [road, crack]\n")
    (root / "labels/0.png").write_bytes(b"no image")
    assert WARNING in (mask_warning(open_dataset(root)) or "")
    assert mask_warning(open_dataset(files.gta5(tmp_path / "gta5"))) is None


def test_training_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, val = (str(masks(tmp_path / name, "names: [road, crack]\n")) for name in ("a", "b"))
    data = DataConfig(target=root, val=val)
    open_training_data(Config(method="oracle", labelled=2, data=data), reporter(plain=True))
    captured = capsys.readouterr()
    assert WARNING in captured.out + captured.err


def test_pack_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = masks(tmp_path / "data", "names: [road, crack]\n")
    words = ["pack", "--root", str(root), "--size", "20x12", "--out", str(tmp_path / "out")]
    assert main([*words, "--workers", "1"]) == 0
    line = "warning: no pixel of the classes crack; 255 is ignored unless ids lists it\n"
    assert line in capsys.readouterr().out
    (root / "classes.yaml").write_text("names: [road, crack]\nids: [0, 255]\n")
    assert main([*words[:-1], str(tmp_path / "again"), "--workers", "1"]) == 0
    assert "warning" not in capsys.readouterr().out
