"""IoU equals that of the data set's own evaluation, on the files that `fastass predict` writes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import fastass
from fastass.cli.main import main
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.pipelines.datasets.classes import SYNTHIA_13, SYNTHIA_16

official = pytest.importorskip(
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
    reason="needs cityscapesscripts: pip install --no-deps cityscapesscripts pyquaternion",
)
labels = pytest.importorskip("cityscapesscripts.helpers.labels")


def train(city: Path, out: Path, classes: int, **more: Any) -> Path:
    """A run whose network predicts many classes: random weights, and a step that learns nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        generator = build_deeplab(ModelConfig(backbone="tiny", num_classes=classes))
        for parameter in generator.classifier.parameters():
            torch.nn.init.normal_(parameter)
    start = out.with_suffix(".safetensors")
    save_file({name: t.contiguous() for name, t in generator.state_dict().items()}, start)
    small = {
        "method": "source_only",
        "mix": False,
        "labelled": 0,
        "steps": 1,
        "start_steps": 0,
        "batch": 1,
        "workers": 0,
        "lr": 1e-12,
        "init": str(start),
        "source_size": (96, 56),
        "target_size": (96, 48),
        "data_source": str(city / "gta5"),
        "data_target": str(city / "cityscapes"),
    }
    fastass.train("toycity", out=out, plain=True, **{**small, **more})
    return out


def truth_files(city: Path) -> list[Path]:
    return sorted((city / "cityscapes" / "gtFine" / "val").rglob("*_gtFine_labelIds.png"))


def official_iou(predictions: list[Path], truths: list[Path]) -> dict[str, float]:
    """Class name → IoU in percent by cityscapesscripts."""
    args = official.args
    args.evalInstLevelScore, args.JSONOutput, args.quiet = False, False, True
    args.evalPixelAccuracy = False
    found = official.evaluateImgLists([str(p) for p in predictions], [str(t) for t in truths], args)
    return {name: 100 * value for name, value in found["classScores"].items()}


def ours(run: Path, city: Path, tmp_path: Path) -> tuple[dict[str, Any], list[Path], list[Path]]:
    """(scores of `fastass eval`, label ids that `fastass predict` writes, truths)."""
    images = city / "cityscapes" / "leftImg8bit" / "val"
    scores = tmp_path / "scores.json"
    data = str(city / "cityscapes")
    kernels = ["--kernels", "reference"]
    assert main(["eval", str(run), "--data", data, "--json", str(scores), *kernels]) == 0
    out = tmp_path / "predictions"
    words = ["predict", str(run), str(images), "--out", str(out), "--format", "labelIds"]
    assert main([*words, *kernels]) == 0
    return json.loads(scores.read_text()), sorted(out.rglob("*.png")), truth_files(city)


def assert_same(found: dict[str, float | None], theirs: dict[str, float]) -> int:
    """Equal to 1e-9, NaN where we have None; → the number of classes with an IoU above 0."""
    for name, value in found.items():
        if value is None:
            assert np.isnan(theirs[name]), name
        else:
            assert value == pytest.approx(theirs[name], abs=1e-9), name
    return sum(bool(value) for value in found.values())


def test_19_classes_equal_the_official_evaluation(city: Path, tmp_path: Path) -> None:
    run = train(city, tmp_path / "run", 19)
    found, predictions, truths = ours(run, city, tmp_path)
    assert len(predictions) == len(truths) == 2
    theirs = official_iou(predictions, truths)
    assert assert_same(found["per_class_iou"], theirs) >= 4
    known = [theirs[name] for name in found["per_class_iou"] if not np.isnan(theirs[name])]
    assert found["miou"] == pytest.approx(sum(known) / len(known), abs=1e-9)


def test_synthias_means_leave_out_the_other_classes(city: Path, tmp_path: Path) -> None:
    """16 trained, 13 reported: pixels of the three classes that SYNTHIA lacks count as unlabelled,
    and the means are over 16 and 13 classes."""
    run = train(city, tmp_path / "run", 16, data_classes=SYNTHIA_16, data_report=SYNTHIA_13)
    found, predictions, truths = ours(run, city, tmp_path)
    lacking = [labels.name2label[name].id for name in ("terrain", "truck", "train")]
    masked = []
    for path in truths:
        ids = np.asarray(Image.open(path)).copy()
        ids[np.isin(ids, lacking)] = labels.name2label["unlabeled"].id
        masked.append(tmp_path / path.name)
        Image.fromarray(ids).save(masked[-1])
    theirs = official_iou(predictions, masked)
    assert list(found["per_class_iou"]) == list(SYNTHIA_16)
    assert assert_same(found["per_class_iou"], theirs) >= 4
    for mean, names in ((found["miou"], SYNTHIA_16), (found["reported_miou"], SYNTHIA_13)):
        known = [theirs[name] for name in names if not np.isnan(theirs[name])]
        assert mean == pytest.approx(sum(known) / len(known), abs=1e-9)


def test_labels_of_another_table_show(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train ids saved as label ids are label ids too, of a few classes: the table says so."""
    run = train(city, tmp_path / "run", 19)
    data = tmp_path / "cityscapes"
    shutil.copytree(city / "cityscapes", data)
    words = ["eval", str(run), "--data", str(data), "--kernels", "reference"]
    capsys.readouterr()
    assert main(words) == 0
    there = capsys.readouterr().out.partition("in no label: ")[2]
    table = np.full(256, 0, np.uint8)  # unlabelled
    for label in labels.labels:
        if 0 <= label.trainId < 19:
            table[label.id] = label.trainId
    for path in data.rglob("*_gtFine_labelIds.png"):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path)
    assert main(words) == 0
    absent = capsys.readouterr().out.partition("in no label: ")[2].strip().split(", ")
    assert {"sky", "car", "vegetation", "rider", "bicycle"} <= set(absent)
    assert not {"sky", "car", "vegetation"} & set(there.strip().split(", "))
