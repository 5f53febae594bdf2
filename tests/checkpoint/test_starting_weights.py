"""What weights imply is checked, and random weights are chosen, not met.

Looked for the kind "a fact that a weight file implies is not checked": normalisation, branches,
corner rule, classes and their order, the head's shape, depth, of every format that `names.py`
knows and of checkpoints, RUN/last and exported folders; in train, eval, predict and export. And
for "no pretrained weights, nothing said": every backbone, every method, `reproduce`, examples/.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastass.checkpoint import starting_weights
from fastass.checkpoint.files import find_checkpoint
from fastass.checkpoint.starting_weights import check_init, start_from
from fastass.cli.main import main
from fastass.config.presets import PRESETS, preset
from fastass.config.schema import Config
from fastass.config.text import override
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.weights.imagenet import FILES

NAMES = tuple(f"class {i}" for i in range(19))


def config(**values: Any) -> Config:
    paths = {name.replace("__", "."): value for name, value in values.items()}
    return override(Config(), {"model.backbone": "resnet18", **paths})


def adaptsegnet(path: Path, heads: str = "multi") -> Path:
    """A file with the names of AdaptSegNet's, of a ResNet-18."""
    own = build_deeplab(ModelConfig(backbone="resnet18", heads=heads)).state_dict()  # type: ignore[arg-type]
    deep = "layer6" if heads == "multi" else "layer5"
    state = {}
    for name, tensor in own.items():
        name = name.removeprefix("backbone.").replace(".branches.", ".conv2d_list.")
        name = name.replace("aux_classifier", "layer5").replace("classifier", deep)
        state[name] = tensor
    torch.save(state, path)
    return path


def imagenet() -> dict[str, torch.Tensor]:
    own = build_deeplab(ModelConfig(backbone="resnet18")).state_dict()
    return {n.removeprefix("backbone."): t for n, t in own.items() if n.startswith("backbone.")}


@pytest.mark.parametrize("heads", ["single", "multi"])
def test_adaptsegnet_demands_two_branches(tmp_path: Path, heads: str) -> None:
    path = adaptsegnet(tmp_path / "gta5.pth", heads)
    right = config(init=str(path), model__aspp_branches=2, model__heads=heads)
    assert start_from(build_deeplab(right.model), right, NAMES) is not None
    for key, value, remedy in (
        ("model.aspp_branches", 4, "give --model-aspp-branches 2"),
        ("data.normalize", "imagenet", "give --data-normalize bgr"),
        ("model.align_corners", False, "give --model-align-corners"),
    ):
        wrong = override(right, {key: value})
        with pytest.raises(UserError, match=f"gta5.pth .*{key}.*{remedy}$"):
            start_from(build_deeplab(wrong.model), wrong, NAMES)


def test_torchvisions_weights_demand_their_normalisation(tmp_path: Path) -> None:
    torch.save(imagenet(), tmp_path / "r.pth")
    wrong = config(init=str(tmp_path / "r.pth"))
    with pytest.raises(UserError, match=r"data.normalize imagenet.*give --data-normalize imagenet"):
        start_from(build_deeplab(wrong.model), wrong, NAMES)
    right = override(wrong, {"data.normalize": "imagenet"})
    assert start_from(build_deeplab(right.model), right, NAMES) is not None


def test_a_checkpoint_implies_its_configuration(trained: Path, tmp_path: Path) -> None:
    toy = override(preset("toycity"), {"model.width": 16, "init": str(trained)})
    names = json.loads((trained / "checkpoints" / "step-00000003" / "classes.json").read_text())
    classes = names["names"]
    for init in (trained, next((trained / "checkpoints").iterdir()), trained / "last"):
        config = override(toy, {"init": str(init)})
        check_settings(config, classes)
        check_classes(config, classes)


def test_a_file_copied_away_from_its_run_implies_the_same(trained: Path, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(trained)
    classes = json.loads((checkpoint / "classes.json").read_text())["names"]
    loose = Path(shutil.copy(checkpoint / "model.safetensors", tmp_path / "loose.safetensors"))
    toy = override(preset("toycity"), {"model.width": 16, "init": str(loose)})
    check_settings(toy, classes, "loose.safetensors .*")
    check_classes(toy, classes)


def check_settings(config: Config, classes: list[str], where: str = "") -> None:
    """The settings must be those of the weights; where: the message's beginning."""
    assert start_from(build_deeplab(config.model), config, classes) is not None
    for key, value in (("data.normalize", "bgr"), ("model.align_corners", False)):
        wrong = override(config, {key: value})
        with pytest.raises(UserError, match=f"{where}made with {key}"):
            start_from(build_deeplab(wrong.model), wrong, classes)


def check_classes(config: Config, classes: list[str]) -> None:
    """The classes must be those of the weights, in their order; the first other one is named."""
    text = r"other classes than the data, or in another order \(first: {}\)"
    swapped = [*classes[:3], classes[4], classes[3], *classes[5:]]
    for other, first in ((swapped, classes[3]), (classes[:-1], str(len(classes)))):
        with pytest.raises(UserError, match=text.format(first)):
            start_from(build_deeplab(config.model), config, other)


def test_an_exported_folder_implies_its_configuration(trained: Path, tmp_path: Path) -> None:
    """And so does the file of weights in it."""
    out = tmp_path / "exported"
    assert main(["export", str(trained), "--format", "safetensors", "--out", str(out)]) == 0
    classes = [entry["name"] for entry in json.loads((out / "config.json").read_text())["classes"]]
    for init in (out, out / "model.safetensors"):
        right = override(preset("toycity"), {"model.width": 16, "init": str(init)})
        assert start_from(build_deeplab(right.model), right, classes) is not None
        wrong = override(right, {"data.normalize": "bgr"})
        with pytest.raises(UserError, match=r"made with data\.normalize imagenet"):
            start_from(build_deeplab(wrong.model), wrong, classes)
        check_classes(right, classes)
    for text in ("{}", '{"model": 1}', "[" * 100_000, "{", '{"model": {}, "preprocessing": 0}'):
        (out / "config.json").write_text(text)
        damaged = override(preset("toycity"), {"model.width": 16, "init": str(out)})
        with pytest.raises(UserError, match=r"config\.json: not the config\.json of an exported"):
            start_from(build_deeplab(damaged.model), damaged, classes)


def test_a_file_beside_another_tools_configuration_implies_nothing(
    trained: Path, tmp_path: Path
) -> None:
    weights = trained / "checkpoints" / "step-00000003" / "model.safetensors"
    for number, (name, content, weights_name) in enumerate(
        (
            ("config.json", b'{"model_type": "dinov2"}', "model.safetensors"),
            ("config.json", b"\xff", "model.safetensors"),
            ("notes.txt", b"", "model.safetensors"),
            ("config.yaml", b"a: 1", "own.safetensors"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        file = folder / weights_name
        save_file(load_file(weights), file)  # without our header, as earlier versions wrote it
        start = override(preset("toycity"), {"model.width": 16, "init": str(file)})
        wrong = override(start, {"data.normalize": "bgr"})
        assert start_from(build_deeplab(wrong.model), wrong, NAMES) is not None


def test_the_remedy_names_a_flag_that_can_be_given(trained: Path, tmp_path: Path) -> None:
    """Of a switch that the weights were made without: --no-…."""
    copy = tmp_path / "copy"
    shutil.copytree(trained / "checkpoints" / "step-00000003", copy)
    (copy / "classes.json").unlink()
    save_file(load_file(copy / "model.safetensors"), copy / "model.safetensors")
    text = (copy / "config.yaml").read_text()
    assert "align_corners: true" in text
    (copy / "config.yaml").write_text(text.replace("align_corners: true", "align_corners: false"))
    toy = override(preset("toycity"), {"model.width": 16, "init": str(copy)})
    with pytest.raises(UserError, match=r"this network has true; give --no-model-align-corners$"):
        start_from(build_deeplab(toy.model), toy, NAMES)
    (copy / "config.yaml").write_text(text)
    wrong = override(toy, {"model.align_corners": False})
    with pytest.raises(UserError, match=r"this network has false; give --model-align-corners$"):
        start_from(build_deeplab(wrong.model), wrong, NAMES)


@pytest.mark.parametrize(
    ("backbone", "remedy"),
    [
        ("resnet18", "--init imagenet --data-normalize imagenet (torchvision's weights)"),
        (
            "hf:facebook/dinov2-base",
            "--init pretrained --data-normalize imagenet (its own weights)",
        ),
    ],
)
def test_weights_are_proposed_for_the_backbone(backbone: str, remedy: str) -> None:
    with pytest.raises(UserError, match=re.escape(remedy)):
        check_init(override(Config(), {"model.backbone": backbone}))
    start = override(Config(), {"model.backbone": backbone, "init": "pretrained"})
    if backbone == "resnet18":
        with pytest.raises(UserError, match=r"--init pretrained: for hf: and timm: backbones, not"):
            check_init(start)
        return
    with pytest.raises(UserError, match="give --data-normalize imagenet"):
        check_init(start)
    check_init(override(start, {"data.normalize": "imagenet"}))


def test_random_weights_must_be_asked_for() -> None:
    for each in PRESETS.values():
        if each.config.preset == "toycity":
            check_init(each.config)
            continue
        with pytest.raises(UserError, match="--init none"):
            check_init(each.config)
        check_init(override(each.config, {"init": "none"}))
        check_init(override(each.config, {"init": "imagenet", "data.normalize": "imagenet"}))
        with pytest.raises(UserError, match="give --data-normalize imagenet"):
            check_init(override(each.config, {"init": "imagenet"}))
    with pytest.raises(UserError, match="no weights for backbone tiny"):
        check_init(override(preset("toycity"), {"init": "imagenet"}))


def test_the_command_refuses_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["train", "gta5_to_cityscapes_csa_100", "--data-source", ".", "--data-target", "."],
        ["train", "toycity", "--backbone", "resnet18"],
        ["reproduce", "table1", "--gta5", ".", "--cityscapes", "."],
    ):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert "--init" in captured.err
        assert captured.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_imagenet_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(url: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        assert options["check_hash"]
        assert options["weights_only"]
        return imagenet()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load)
    right = config(init="imagenet", data__normalize="imagenet")
    report = start_from(build_deeplab(right.model), right, NAMES)
    assert report is not None
    assert report.kind == "ImageNet ResNet"
    assert asked == [f"https://download.pytorch.org/models/{FILES['resnet18']}"]

    def refuse(url: str, **options: Any) -> None:
        raise URLError("no route\nto host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"can't be loaded \(no route\); .* --init resnet18-f37072"):
        start_from(build_deeplab(right.model), right, NAMES)


@pytest.mark.parametrize("heads", ["single", "multi"])
def test_the_heads_of_a_pretrained_backbone_are_random(
    monkeypatch: pytest.MonkeyPatch, heads: str
) -> None:
    right = config(init="pretrained", data__normalize="imagenet", model__heads=heads)
    own = {f"backbone.{name}": tensor for name, tensor in imagenet().items()}
    monkeypatch.setattr(starting_weights, "pretrained_weights", lambda name: (name, own))
    report = start_from(build_deeplab(right.model), right, NAMES)
    assert report is not None
    assert set(report.loaded) >= set(own)
    others = ["classifier", "aux_classifier"] if heads == "multi" else ["classifier"]
    assert sorted({name.split(".")[0] for name in report.random}) == sorted(others)


def test_examples_name_their_weights() -> None:
    folder = Path(__file__).parents[2] / "examples"
    paths = [path for path in folder.iterdir() if path.is_file()]  # the others train elsewhere
    assert len(paths) >= 3
    for path in paths:
        text = path.read_text(encoding="utf-8").replace("=", " ")
        assert "--init " in text, path
        assert "--data-normalize imagenet" in text, path


def test_a_damaged_checkpoint_is_named(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained / "checkpoints" / "step-00000003", copy)
    (copy / "classes.json").write_text("[" * 100_000)
    toy = override(preset("toycity"), {"model.width": 16, "init": str(copy)})
    with pytest.raises(UserError, match=r"classes\.json: damaged"):
        start_from(build_deeplab(toy.model), toy, NAMES)
