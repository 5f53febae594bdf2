"""Runs on images with four channels, from files to export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_runs import SMALL

import fastass
from fastass.checkpoint.starting_weights import start_from
from fastass.config.configure import configure
from fastass.errors import DataError, UserError
from fastass.inference.export.graph import Graph
from fastass.inference.segmenter import Preparation
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.weights.init import init_weights
from fastass.pipelines.datasets.bands import Bands, bands_of, levels_of
from fastass.pipelines.loaders.augment import AugmentParams, color_matrix
from fastass.pipelines.loaders.normalization import normalization, with_channels
from fastass.pipelines.loaders.pillow import augment_image, normalize
from fastass.self_training import augment as mixed

BACKBONES = ("tiny", "resnet18", "vgg16")
CLASSES = "names: [road, other, sky]\nignore: others\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of .npy files, and a target of PNGs with four channels. The fourth channel alone
    says the class."""
    root = tmp_path_factory.mktemp("channels")
    draws = np.random.default_rng(0)
    for name, splits in (("source", ("",)), ("target", ("train/", "val/"))):
        for split in splits:
            for folder in ("images", "labels"):
                (root / name / folder / split).mkdir(parents=True, exist_ok=True)
            for i in range(4):
                label = np.kron(draws.integers(0, 3, (4, 6)), np.ones((16, 16))).astype(np.uint8)
                levels = draws.integers(0, 256, (*label.shape, 4), dtype=np.uint8)
                levels[:, :, 3] = label * 120
                image = root / name / "images" / f"{split}{i}"
                if name == "source":
                    np.save(image, levels)
                else:
                    file = Image.frombytes("RGBA", (96, 64), levels.tobytes())
                    file.save(image.with_suffix(".png"))
                Image.fromarray(label).save(root / name / "labels" / f"{split}{i}.png")
        (root / name / "classes.yaml").write_text(CLASSES)
    return root


@pytest.fixture
def words(data: Path) -> dict[str, Any]:
    paths = {"data.source": str(data / "source"), "data.target": str(data / "target")}
    sizes = {"source_size": "96x64", "target_size": "96x64"}
    return {**SMALL, **sizes, **paths, "channels": 4, "plain": True}


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "a"
    paths = {"data.source": str(data / "source"), "data.target": str(data / "target")}
    sizes = {"source_size": "96x64", "target_size": "96x64"}
    more = {"mix": True, "jitter": 0.3, "blur": 1.0, "data.scale": "0.7,1.5", "extra_mean": "100"}
    words: dict[str, Any] = {**SMALL, **sizes, **paths, **more, "channels": 4, "extra_std": "80"}
    fastass.train("toycity", out=out, plain=True, **words)
    return out


def test_train_evaluate_predict(run: Path, data: Path, tmp_path: Path) -> None:
    network = fastass.load(run, device="cpu")
    assert network.generator.config.channels == 4
    assert network.prepare.how.mean[3] == 100
    assert network.prepare.how.scale[3] == pytest.approx(1 / 80)
    scores = fastass.evaluate(network, data / "target")
    assert list(scores.per_class_iou) == ["road", "other", "sky"]
    image = data / "target" / "images" / "val" / "0.png"
    labels = network.predict(image)
    with Image.open(image) as file:
        np.testing.assert_array_equal(network.predict(file), labels)
        levels = np.asarray(file)
    np.testing.assert_array_equal(network.predict(levels), labels)
    np.save(tmp_path / "x.npy", levels)
    np.testing.assert_array_equal(network.predict(tmp_path / "x.npy"), labels)
    other = levels.copy()
    other[:, :, 3] = 255 - other[:, :, 3]
    P, Q = (network.probabilities(x) for x in (levels, other))
    assert np.abs(P - Q).max() > 1e-4  # the fourth channel is read
    with pytest.raises(UserError, match=r"expected uint8 \[H,W,4\], got uint8 \[64x96x3\]"):
        network.predict(levels[:, :, :3])


@pytest.mark.parametrize("form", ["safetensors", "torch-export", "onnx"])
def test_export(run: Path, data: Path, tmp_path: Path, form: str) -> None:
    network = fastass.load(run, device="cpu")
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="the extra export is not installed")
    out = tmp_path / "out.pt2"
    fastass.export(network, out, format=form)  # type: ignore[arg-type]
    if form == "safetensors":
        again = fastass.load(out, device="cpu")
        image = data / "target" / "images" / "val" / "1.png"
        np.testing.assert_array_equal(again.predict(image), network.predict(image))
        saved = json.loads((out / "config.json").read_text())["preprocessing"]
        assert saved["channels"] == [0, 1, 2, 3]
        assert saved["mean"][3] == 100
    elif form == "torch-export":
        program = torch.export.load(out).module()
        assert program(torch.zeros(1, 4, 64, 96, dtype=torch.uint8)).shape == (1, 3, 64, 96)


def test_predict_command(run: Path, data: Path, tmp_path: Path) -> None:
    from fastass.cli.main import main

    words = ["predict", str(run), str(data / "target" / "images" / "val"), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) >= 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loader": "dali"}, "--loader dali reads images of 3 channels"),
        ({"data.source": None}, "--channels 4: ToyCity's images have 3; give --data-source"),
        ({"extra_mean": "1,2"}, "data.extra_mean: 2 values, and images of 4 channels have 1 after"),
        ({"channels": 3, "extra_std": "5"}, "images of 3 channels have 0 after"),
        ({"channels": 2}, "3 to 64, got 2"),
        ({"channels": 5}, "channels, and the network reads 5"),
    ],
)
def test_what_is_refused(
    words: dict[str, Any], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((UserError, DataError), match=message):
        fastass.train("toycity", out=tmp_path / "run", **{**words, **values})


def test_three_channels_are_not_four(city: Path, words: dict[str, Any], tmp_path: Path) -> None:
    paths = {"data.source": str(city / "gta5"), "data.target": str(city / "cityscapes")}
    with pytest.raises(DataError, match=r"\.png: has 3 channels, and the network reads 4"):
        fastass.train("toycity", out=tmp_path / "run", **{**words, **paths})


def test_packed_data_has_three(data: Path, words: dict[str, Any], tmp_path: Path) -> None:
    from fastass.cli.main import main

    packed = tmp_path / "packed"
    target = str(data / "target")
    pack = ["pack", "--layout", "folder", "--root", target, "--size", "96x64", "--out", str(packed)]
    assert main([*pack, "--workers", "1"]) == 0
    more = {"data.target": str(packed), "data.val": target}
    with pytest.raises(DataError, match="packed images have 3 channels, and the network reads 4"):
        fastass.train("toycity", out=tmp_path / "run", **{**words, **more})


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_of_three_channels(backbone: Any, tmp_path: Path) -> None:
    heads = {"backbone": backbone, "num_classes": 5}
    torch.manual_seed(0)
    plain = build_deeplab(ModelConfig(**heads))
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    wide = build_deeplab(ModelConfig(**heads, channels=6))
    report = init_weights(wide, tmp_path / "weights.pth")
    assert len(report.extended) == 1
    assert "extended" in str(report)
    image = torch.randn(1, 6, 64, 96)
    torch.testing.assert_close(wide.eval()(image).scores, plain.eval()(image[:, :3]).scores)
    wide.train()(image).scores.square().sum().backward()
    first = wide.get_parameter(report.extended[0])
    assert first.grad is not None
    assert first.grad[:, 3:].abs().sum() > 0  # they learn


def test_a_run_starts_from_a_run_of_as_many_channels(run: Path) -> None:
    words = {"init": str(run), "channels": 4, "runtime.device": "cpu"}
    config = configure("toycity", words)
    model = build_deeplab(ModelConfig(backbone="tiny", num_classes=3, channels=4))
    report = start_from(model, config, ("road", "other", "sky"))
    assert report is not None
    assert report.extended == ()


def test_colours_change_in_the_first_three_alone() -> None:
    levels = np.random.default_rng(1).integers(0, 256, (20, 30, 5), dtype=np.uint8)
    color = color_matrix(1.2, 0.8, 1.3, 0.0)
    params = AugmentParams(mirror=True, color=color, sigma=1.0)
    both = augment_image(bands_of(levels), params, (30, 20))
    assert isinstance(both, Bands)
    alone = augment_image(bands_of(levels[:, :, :3]), params, (30, 20))
    np.testing.assert_array_equal(levels_of(both)[:, :, :3], levels_of(alone))
    grey = np.repeat(levels[:, :, 3:4], 3, axis=2)
    same = augment_image(bands_of(grey), AugmentParams(mirror=True, sigma=1.0), (30, 20))
    np.testing.assert_array_equal(levels_of(both)[:, :, 3], levels_of(same)[:, :, 0])


@pytest.mark.parametrize("name", ["bgr", "imagenet"])
def test_normalisation(name: str) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (4, 6, 5), dtype=np.uint8)
    how = with_channels(name, 5, (10.0, 20.0), (2.0, 4.0))
    out = np.empty((4, 6, 5), np.float32)
    normalize(bands_of(levels), how, out)
    colors = np.empty((4, 6, 3), np.float32)
    normalize(bands_of(levels[:, :, :3]), normalization(name), colors)
    np.testing.assert_array_equal(out[:, :, :3], colors)
    np.testing.assert_allclose(out[:, :, 3], (levels[:, :, 3] - 10.0) / 2)
    np.testing.assert_allclose(out[:, :, 4], (levels[:, :, 4] - 20.0) / 4)
    default = with_channels(name, 4)
    assert (default.mean[3], default.scale[3]) == (127.5, normalization(name).scale[2])
    assert how.positions[3:] == [3, 4]


def test_mixed_images_keep_their_further_channels() -> None:
    how = with_channels("imagenet", 4)
    u = np.random.default_rng(0).random((2, 3))
    matrix, offset = (torch.from_numpy(a) for a in mixed.color_maps(u, 0.4, how))
    images = torch.randn(2, 4, 8, 8)
    changed = mixed.recolor(images, matrix, offset, how)
    torch.testing.assert_close(changed[:, 3], images[:, 3])
    alone = mixed.recolor(images[:, :3], matrix, offset, how.colors)
    torch.testing.assert_close(changed[:, :3], alone)


@pytest.mark.parametrize("name", ["bgr", "imagenet"])
def test_the_exported_graph_prepares_as_training_does(name: str) -> None:
    how = with_channels(name, 5, (10.0, 20.0), (2.0, 4.0))
    torch.manual_seed(0)
    network = build_deeplab(ModelConfig(backbone="tiny", num_classes=3, channels=5)).eval()
    levels = np.random.default_rng(1).integers(0, 256, (32, 48, 5), dtype=np.uint8)
    whole = torch.from_numpy(levels).permute(2, 0, 1)[None]
    prepared = Preparation((48, 32), how)(levels)
    coarse = network(prepared).scores
    wanted = F.interpolate(coarse, (32, 48), mode="bilinear", align_corners=True)
    torch.testing.assert_close(Graph(network, how).eval()(whole), wanted, rtol=1e-4, atol=1e-4)
