"""Every export comes with a model card that says what is known, and names what is not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import fastass
from fastass.errors import UserError
from fastass.inference.export import card_of
from fastass.inference.export.model_card import FILL_IN, HEADING, model_card


@pytest.fixture(scope="module")
def network(trained: Path) -> fastass.Segmenter:
    return fastass.load(trained, device="cpu")


def test_the_card_says_what_the_run_knows(trained: Path, network: fastass.Segmenter) -> None:
    card = model_card(network, "model.onnx")
    assert card.startswith(f"{HEADING}: model.onnx")
    summary = json.loads((trained / "summary.json").read_text())
    for kind, words in (("domain", "the target's"), ("mixed", "mixed")):
        miou = summary["by_statistics"][kind]["reported_miou"]
        here = ", which this export has" if kind == network.norm_statistics else ""
        assert f"mIoU with {words} running statistics{here}: {miou:.1f}" in card
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines()]
    road = summary["per_class_iou"]["road"]
    assert ["road", f"{road:.1f}"] in lines
    assert ["method", "ga+csa"] in lines
    assert ["source data, labelled", "gta5"] in lines
    assert ["labelled target images", "1 (chosen by seed 0)"] in lines
    assert ["steps", "1 supervised + 2 of the method"] in lines
    assert ["command", summary["command"]] in lines
    assert str(trained) not in card.replace(summary["command"], "")
    assert ["training seconds", f"{summary['training_seconds']:.0f}"] in lines
    assert card.count(FILL_IN) == 4


def test_what_is_not_known_is_to_be_filled_in(network: fastass.Segmenter) -> None:
    card = model_card(replace(network, origin=None), "model")
    assert f"Data and method: {FILL_IN}" in card
    assert f"mIoU: {FILL_IN}" in card
    assert f"Command, commit and versions: {FILL_IN}" in card


def test_the_labelled_images_of_a_list_are_counted(
    trained: Path, network: fastass.Segmenter, tmp_path: Path
) -> None:
    assert network.origin is not None
    run = tmp_path / "run"
    shutil.copytree(trained, run, symlinks=True)
    checkpoint = run / "checkpoints" / network.origin.name
    config = checkpoint / "config.yaml"
    text = config.read_text().replace("labelled_list: null", "labelled_list: names.txt")
    config.write_text(text)
    (run / "labelled.txt").write_text("one\ntwo\nthree\n")
    card = model_card(replace(network, origin=checkpoint), "model")
    assert "3 (named in a list)" in card
    assert "chosen by seed" not in card


def test_it_lies_beside_a_file_and_begins_a_folder(trained: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "model.pt2", tmp_path / "model"
    fastass.export(trained, file, format="torch-export")
    fastass.export(trained, folder, format="safetensors")
    card = card_of(file)
    assert card.name == "model.pt2.md"
    assert card.read_text().startswith(f"{HEADING}: model.pt2\n")
    readme = (folder / "README.md").read_text()
    assert readme.startswith(f"{HEADING}: model\n")
    assert "## How to run it" in readme
    # An exported folder has no run any more; the card says so.
    again = fastass.load(folder, device="cpu")
    assert f"Data and method: {FILL_IN}" in model_card(again, "again")


def test_a_file_of_others_is_not_replaced(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    card_of(out).write_text("my notes")
    with pytest.raises(UserError, match=r"model\.pt2\.md: the model card is written there"):
        fastass.export(trained, out, format="torch-export")
    assert not out.exists()
    assert card_of(out).read_text() == "my notes"
