"""`fastass eval|predict|export` of a weight file, and `fastass.load`."""

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
from fastass.checkpoint.files import find_checkpoint, read_weights
from fastass.checkpoint.weight_facts import header, serialized
from fastass.cli.main import main
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab

TINY = ["--backbone", "tiny", "--normalize", "imagenet", "--target-size", "64x32"]


@pytest.fixture
def file(trained: Path, tmp_path: Path) -> Path:
    """The trained network's weights as a plain state dict."""
    saved = read_weights(find_checkpoint(trained))
    state = {k.removeprefix("generator."): v for k, v in saved.items() if k.startswith("gener")}
    torch.save(state, tmp_path / "net.pth")
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "net.safetensors")
    return tmp_path / "net.pth"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_every_command_takes_it(
    suffix: str, file: Path, trained: Path, city: Path, tmp_path: Path
) -> None:
    path, words = str(file.with_suffix(suffix)), [*TINY, "--device", "cpu"]
    image = next((city / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))
    data = ["--data", str(city / "cityscapes")]
    results = []
    for network, more in ((path, words), (str(trained), ["--device", "cpu"])):
        out = tmp_path / ("a" if more is words else "b")
        assert main(["predict", network, str(image), "--out", str(out), *more]) == 0
        assert main(["eval", network, *data, "--json", str(out / "s.json"), *more]) == 0
        export = ["--format", "safetensors", "--out", str(out / "model")]
        assert main(["export", network, *export, *(TINY if more is words else [])]) == 0
        scores = json.loads((out / "s.json").read_text())
        for kinds in ("norm_statistics", "by_statistics"):  # a weight file has one kind
            scores.pop(kinds, None)
        results.append([
            np.asarray(Image.open(next(out.glob("*_trainIds.png")))).tolist(),
            scores,
            (out / "model" / "model.safetensors").read_bytes(),
        ])  # fmt: skip
    assert results[0] == results[1]


def test_adaptsegnets_file_implies_its_branches_and_normalisation(tmp_path: Path) -> None:
    own = build_deeplab(ModelConfig(backbone="resnet18", heads="multi")).state_dict()
    state = {}
    for name, tensor in own.items():
        name = name.removeprefix("backbone.").replace(".branches.", ".conv2d_list.")
        name = name.replace("aux_classifier", "layer5").replace("classifier", "layer6")
        state[name] = tensor
    path = tmp_path / "gta5.pth"
    torch.save(state, path)
    network = fastass.load(path, device="cpu", backbone="resnet18")
    config = network.generator.config
    assert (config.aspp_branches, config.heads, config.num_classes) == (2, "multi", 19)
    assert (network.prepare.normalize, network.prepare.size) == ("bgr", (1024, 512))
    assert network.classes.names[0] == "road"
    single = fastass.load(path, device="cpu", backbone="resnet18", heads="single")
    assert single.generator.config.heads == "single"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"aspp_branches": 4}, "made with --aspp-branches 2, not 4"),
        ({"normalize": "imagenet"}, "made with --normalize bgr, not imagenet"),
        ({"classes": ("road", "car")}, "its classifier has 19 classes, not 2"),
        ({"backbone": None}, "a weight file needs --backbone"),
        ({"backbone": "vgg16"}, "does not fit vgg16"),
        ({"backbone": "resnet50"}, "give the --backbone and the --heads that the file was made"),
    ]
    for options, message in wrong:
        with pytest.raises(UserError, match=message):
            fastass.load(path, device="cpu", **{"backbone": "resnet18", **options})


def test_what_the_file_does_not_say(file: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say how its images are normalised"):
        fastass.load(file, device="cpu", backbone="tiny")
    with pytest.raises(UserError, match="--backbone is for weight files"):
        fastass.load(trained, device="cpu", backbone="tiny")
    with pytest.raises(UserError, match=r"gone.pth: no such file"):
        fastass.load(tmp_path / "gone.pth", device="cpu", backbone="tiny")
    renamed = file.rename(tmp_path / "weights.bin")
    with pytest.raises(UserError, match=r"weights.bin: a weight file is a file that ends in .pth"):
        fastass.load(renamed, device="cpu", backbone="tiny")
    file = renamed.rename(tmp_path / "weights.pth")
    state = torch.load(file, weights_only=True)
    classifier = {n: t[:5].clone() if n.startswith("classifier") else t for n, t in state.items()}
    torch.save(classifier, tmp_path / "five.pth")
    options: Any = {"backbone": "tiny", "normalize": "imagenet", "device": "cpu"}
    with pytest.raises(UserError, match="5 classes; give their names, --classes"):
        fastass.load(tmp_path / "five.pth", **options)
    five = fastass.load(tmp_path / "five.pth", **options, classes=tuple("abcde"))
    assert five.classes.names == tuple("abcde")
    torch.save({n: t for n, t in state.items() if "classifier" not in n}, tmp_path / "none.pth")
    with pytest.raises(UserError, match="it has no classifier"):
        fastass.load(tmp_path / "none.pth", **options)


def test_the_file_inside_a_checkpoint_is_the_checkpoint(trained: Path) -> None:
    whole = fastass.load(trained, device="cpu")
    file = find_checkpoint(trained) / "model.safetensors"
    inside = fastass.load(file, device="cpu")
    assert inside.prepare == whole.prepare
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(inside.predict(pixels), whole.predict(pixels))


def test_a_copied_file_still_says_what_it_needs(trained: Path, tmp_path: Path) -> None:
    """The weights of a checkpoint and of an exported folder, each away from its folder."""
    whole = fastass.load(trained, device="cpu")
    fastass.export(whole, tmp_path / "folder", format="safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    for folder in (find_checkpoint(trained), tmp_path / "folder"):
        path = tmp_path / f"{folder.name}.safetensors"
        shutil.copyfile(folder / "model.safetensors", path)
        options: Any = {"backbone": "tiny", "device": "cpu", "target_size": (64, 32)}
        copied = fastass.load(path, **options)
        assert copied.prepare == whole.prepare
        assert copied.classes.names == whole.classes.names
        np.testing.assert_array_equal(copied.predict(pixels), whole.predict(pixels))
        with pytest.raises(UserError, match="made with --normalize imagenet, not bgr"):
            fastass.load(path, **options, normalize="bgr")
        with pytest.raises(UserError, match="made with --classes road,"):
            fastass.load(path, **options, classes=tuple(f"class {i}" for i in range(19)))


def write(path: Path, model: ModelConfig, said: dict[str, str]) -> None:
    state = build_deeplab(model).state_dict()
    path.write_bytes(serialized({k: v.contiguous() for k, v in state.items()}, said))


def test_the_corner_rule_of_a_copied_file(tmp_path: Path) -> None:
    model = ModelConfig(backbone="tiny", align_corners=False, num_classes=2)
    write(tmp_path / "net.safetensors", model, header(model, "bgr", ("a", "b")))
    network = fastass.load(tmp_path / "net.safetensors", backbone="tiny", device="cpu")
    assert not network.generator.config.align_corners
    assert (network.prepare.normalize, network.classes.names) == ("bgr", ("a", "b"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.normalize", "other", r"net.safetensors: data.normalize: unknown value 'other'"),
        ("model.aspp_branches", "3", r"net.safetensors: model.aspp_branches: unknown value '3'"),
        ("classes", "[1]", r"net.safetensors: its header's 'classes' is no list of names"),
        ("classes", "[" * 100_000, r"net.safetensors: its header's 'classes' is no list of names"),
    ],
)
def test_a_foreign_header_is_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    model = ModelConfig(backbone="tiny")
    path = tmp_path / "net.safetensors"
    write(path, model, {key: value})
    with pytest.raises(UserError, match=message):
        fastass.load(path, backbone="tiny", device="cpu", normalize="bgr")
