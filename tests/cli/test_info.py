"""`fastass info DATA`: the table, the JSON, and bad input as one line."""

import json
from pathlib import Path

import dataset_files as files
import numpy as np
import pytest

from fastass.cli.main import main
from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.datasets.decode import read_label
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.packed.pack import pack

pytestmark = pytest.mark.usefixtures("user_cache")


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, object]:
    assert main(["info", *words, "--json"]) == code
    tree: dict[str, object] = json.loads(capsys.readouterr().out)
    return tree


def test_json_has_the_counts_of_the_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = files.gta5(tmp_path / "data", 4)
    files.write_palette(root / "labels/00004.png", np.full((28, 48), 7, np.uint8))
    labels = np.stack([read_label(open_dataset(root), s) for s in open_dataset(root).samples])
    tree = answer(capsys, str(root))
    valid = int((labels != IGNORE).sum())
    assert tree["pixels"] == labels.size
    assert tree["ignored_pixels"] == labels.size - valid
    assert tree["ignored_share"] == pytest.approx(1 - valid / labels.size)
    assert tree["label_sizes"] == [{"width": 48, "height": 28, "labels": 4}]
    assert (tree["images"], tree["labelled"], tree["bad_labels"]) == (4, 4, [])
    classes = tree["classes"]
    assert isinstance(classes, list)
    assert len(classes) == 19
    for c, entry in enumerate(classes):
        mine = labels == c
        images = int(mine.any(axis=(1, 2)).sum())
        assert entry == {
            "train_id": c,
            "name": open_dataset(root).classes.names[c],
            "pixels": int(mine.sum()),
            "share": pytest.approx(mine.sum() / valid),
            "images": images,
            "images_share": images / 4,
        }


def test_a_pack_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = files.cityscapes(tmp_path / "data", 3, split="val")
    pack(open_dataset(root, split="val"), tmp_path / "packed", (64, 32), workers=1)
    shipped = answer(capsys, str(root), "--split", "val")
    packed = answer(capsys, str(tmp_path / "packed"))  # of itself a val split
    assert packed.pop("packed") is True
    assert shipped.pop("packed") is False
    for tree in (shipped, packed):
        del tree["root"]
    assert shipped == packed


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = files.folder(tmp_path / "data", 4)
    files.write_image(root / "labels/3.png", np.full((24, 40), 1, np.uint8))
    (root / "labels/1.png").unlink()
    assert main(["info", str(root)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{root} (folder), split train: 4 images, 3 labelled"
    assert out[1] == "label sizes: 3 of 40x24"
    assert out[2].startswith("ignored: ")
    rows = {line.split()[0]: line.split()[1:] for line in out[4:] if line}
    assert rows["road"][2:] == ["3", "100.0%"]
    assert rows["car"][2:] == ["2", "66.7%"]
    assert float(rows["road"][1][:-1]) + float(rows["car"][1][:-1]) == pytest.approx(100)


def test_fewer_classes_and_absent_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = files.gta5(tmp_path / "data", 2)
    for number in (1, 2):
        files.write_palette(root / f"labels/0000{number}.png", np.full((28, 48), 7, np.uint8))
    assert main(["info", str(root), "--classes", "road,traffic light"]) == 0
    out = capsys.readouterr().out
    assert "in no label: traffic light\n" in out
    assert "sidewalk" not in out


def test_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = files.gta5(tmp_path / "data", 2)
    for label in (root / "labels").iterdir():
        label.unlink()
    assert main(["info", str(root)]) == 0
    assert capsys.readouterr().out == f"{root} (gta5), split train: 2 images, 0 labelled\n"


def test_bad_labels_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = files.gta5(tmp_path / "data", 2)
    (root / "labels/00001.png").write_bytes(b"\x89PNG")
    assert main(["info", str(root)]) == 1  # as predict, where it leaves out images
    captured = capsys.readouterr()
    assert "fastass: 1 labels can't be read and were not counted" in captured.err
    assert captured.out.splitlines()[-1].startswith(f"not counted: {root}/labels/00001.png: ")
    assert "counted the classes of 1 labels" in captured.err
    tree = answer(capsys, str(root), code=1)
    assert isinstance(tree["bad_labels"], list)
    assert len(tree["bad_labels"]) == 1
    (root / "labels/00002.png").write_bytes(b"")
    assert main(["info", str(root)]) == 2
    assert "no label can be read; the first: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: DATA"),
        (("none",), "none: no such directory"),
        (("s3://a/b",), "fastass reads and writes local files only"),
        (("DATA", "--split", "val"), "no split 'val'"),
        (("DATA", "--layout", "gta6"), "layout 'gta6' is unknown; choose one of auto, "),
        (("DATA", "--classes", "rode"), "class 'rode' is not in the gta5 table"),
        (("DATA", "--clases", "road"), "unknown argument '--clases'"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    root = files.gta5(tmp_path / "data", 2)
    assert main(["info", *(str(root) if word == "DATA" else word for word in words)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("packed", [False, True])
def test_bad_images_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: bool
) -> None:
    root = files.gta5(tmp_path / "data", 3)
    if packed:
        pack(open_dataset(root), tmp_path / "packed", (64, 32), workers=1, image="png")
        root = tmp_path / "packed"
        shard = root / "shard-00000.tar"
        data = bytearray(shard.read_bytes())
        data[data.index(b"IDAT") + 40] ^= 255
        shard.write_bytes(data)
    else:
        image = next((root / "images").iterdir())
        image.write_bytes(image.read_bytes()[:-200])
    assert main(["info", str(root)]) == 0  # reads labels only
    capsys.readouterr()
    assert main(["info", str(root), "--images"]) == 1
    captured = capsys.readouterr()
    assert "fastass: 1 images are bad" in captured.err
    assert captured.out.splitlines()[-1].startswith(f"bad image: {root}")
    tree = answer(capsys, str(root), "--images", code=1)
    assert isinstance(tree["bad_images"], list)
    assert len(tree["bad_images"]) == 1


def test_images_and_labels_of_different_sizes_and_channels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = files.gta5(tmp_path / "data", 2)
    tree = answer(capsys, str(root), "--images")
    assert tree["bad_images"] == []
    files.write_palette(root / "labels/00002.png", np.full((14, 24), 7, np.uint8))
    files.write_palette(root / "labels/00001.png", np.full((28, 48), 99, np.uint8))
    assert main(["info", str(root), "--images"]) == 1
    captured = capsys.readouterr()
    assert "1 labels can't be read and were not counted; 1 images are bad" in captured.err
    assert "image is 48x28" in captured.out
    tree = answer(capsys, str(root), "--images", "--channels", "4", code=1)
    assert isinstance(tree["bad_images"], list)
    assert len(tree["bad_images"]) == 2
    assert main(["info", str(root), "--channels", "4"]) == 2
    assert "--channels has no effect without --images" in capsys.readouterr().err
