"""Exported networks: the same scores elsewhere, at sizes of the reader's choice."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastass
from fastass.cli.main import main
from fastass.errors import ExportFailure, UserError
from fastass.inference.export import WRITERS, export
from fastass.inference.export.folder import PLAIN, RUN_IT
from fastass.inference.export.graph import compare, graph_of
from fastass.inference.formats import EXPORT_FORMATS
from fastass.inference.segmenter import Preparation
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.pipelines.datasets.classes import GTA5


def randomised(network: fastass.Segmenter) -> fastass.Segmenter:
    """Scores far apart, as those of a trained network are."""
    torch.manual_seed(0)
    for branch in network.generator.classifier.branches:
        torch.nn.init.normal_(branch.get_parameter("weight"), std=0.3)
    return network


@pytest.fixture(scope="module")
def network(trained: Path) -> fastass.Segmenter:
    return randomised(fastass.load(trained, device="cpu"))


@pytest.fixture(scope="module")
def folder(network: fastass.Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "model"
    assert "checked after fastass.load" in export(network, out, "safetensors")
    return out


def photo(path: Path) -> np.ndarray:
    levels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(levels).resize((90, 60), Image.Resampling.NEAREST).save(path)
    return np.asarray(Image.open(path))


SINGLE_PROCESS = """
import sys, json, numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
about = {k: v for k, v in session.get_modelmeta().custom_metadata_map.items()}
names = [entry["name"] for entry in json.loads(about["classes"])]
size = json.loads(about["preprocessing"])["size"]
assert names[0] == "road" and len(names) == 19 and size == [64, 32], about
(given,) = session.get_inputs()
assert (given.name, given.type) == ("image", "tensor(uint8)")
assert given.shape == ["batch", 3, "height", "width"], given.shape
image = np.asarray(Image.open("photo.png")).transpose(2, 0, 1)
results = {}
for name, batch in {"whole": image[None], "part": image[None, :, 3:50, 5:76],
                    "two": np.stack([image, image[:, ::-1]])}.items():
    results[name] = session.run(["scores"], {"image": np.ascontiguousarray(batch)})[0]
np.savez("scores.npz", **results)
assert "torch" not in sys.modules and "fastass" not in sys.modules
"""


def test_onnx_runtime_alone(network: fastass.Segmenter, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    line = export(network, tmp_path / "model.onnx", "onnx")
    assert "1×32×64, 2×17×34, 1×75×122" in line
    pixels = photo(tmp_path / "photo.png")
    subprocess.run([sys.executable, "-c", SINGLE_PROCESS], cwd=tmp_path, check=True)
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    with np.load(tmp_path / "scores.npz") as found, torch.no_grad():
        graph = graph_of(network)
        for name, batch in (
            ("whole", image[None]),
            ("part", image[None, :, 3:50, 5:76]),
            ("two", torch.stack([image, image.flip(1)])),
        ):
            expected = graph(batch).numpy()
            assert found[name].shape == expected.shape
            np.testing.assert_allclose(found[name], expected, atol=1e-4 * np.abs(expected).max())


def test_torch_export(network: fastass.Segmenter, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    assert "checked after torch.export.load" in export(network, out, "torch-export")
    extra = {"fastass.json": ""}
    loaded = torch.export.load(out, extra_files=extra).module()
    about = json.loads(extra["fastass.json"])
    assert about["preprocessing"]["size"] == [64, 32]
    draws = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 3, 41, 53), dtype=torch.uint8, generator=draws)
    with torch.no_grad():
        expected = graph_of(network)(image)
        allowed = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(loaded(image), expected, atol=allowed, rtol=0)


def test_the_graph_is_prepare_network_upsample(network: fastass.Segmenter, tmp_path: Path) -> None:
    pixels = photo(tmp_path / "photo.png")
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        labels = graph_of(network)(image).argmax(1)[0].numpy()
    expected = network.predict(pixels, size=(90, 60))
    assert (labels == expected).mean() > 0.999
    assert len(np.unique(labels)) > 1


def test_folder_is_read_back(folder: Path, network: fastass.Segmenter, tmp_path: Path) -> None:
    pixels = photo(tmp_path / "photo.png")
    loaded = fastass.load(folder, device="cpu")
    assert loaded.classes.names == network.classes.names
    assert loaded.prepare == network.prepare
    np.testing.assert_array_equal(loaded.predict(pixels), network.predict(pixels))
    words = [str(folder), str(tmp_path / "photo.png"), "--out", str(tmp_path), "--device", "cpu"]
    assert main(["predict", *words, "--format", "trainIds"]) == 0


def test_lines_of_plain_torch(folder: Path, network: fastass.Segmenter, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(folder)
    pixels = photo(tmp_path / "photo.png")
    assert PLAIN in RUN_IT
    assert PLAIN in (Path(__file__).resolve().parents[2] / "docs" / "using.md").read_text("utf-8")
    code = f"{PLAIN}\nimport sys; assert 'fastass' not in sys.modules\nnp.save('labels', labels)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    labels = np.load(tmp_path / "labels.npy")
    assert (labels == network.predict(pixels)).mean() > 0.999
    assert len(np.unique(labels)) > 1


VARIANTS = [
    ModelConfig(backbone="tiny", norm="frozen", heads="multi", align_corners=False),
    ModelConfig(backbone="tiny", aspp_branches=2),
    pytest.param(ModelConfig(backbone="resnet101", heads="multi"), marks=pytest.mark.slow),
    pytest.param(ModelConfig(backbone="resnet50", norm="frozen"), marks=pytest.mark.slow),
    pytest.param(ModelConfig(backbone="vgg16"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: f"{c.backbone}-{c.norm}")
def test_every_network(network: fastass.Segmenter, config: ModelConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = replace(
        network,
        generator=build_deeplab(config),
        classes=GTA5,
        prepare=Preparation((160, 96), "bgr"),
    )
    export(other, tmp_path / "folder", "safetensors")
    (tmp_path / "model").symlink_to(tmp_path / "folder")
    photo(tmp_path / "photo.png")
    code = f"{PLAIN}\nnp.save('scores', scores)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    expected = other.probabilities(tmp_path / "photo.png")
    found = torch.from_numpy(np.load(tmp_path / "scores.npy"))[0].softmax(0)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if config.backbone != "tiny":
        export(other, tmp_path / "model.onnx", "onnx")
        export(other, tmp_path / "model.pt2", "torch-export")


def test_a_difference_is_a_failure(network: fastass.Segmenter) -> None:
    graph = graph_of(network)
    with pytest.raises(ExportFailure, match=r"at 1×32×64 the exported network differs by"):
        compare(graph, lambda image: graph(image) * 1.001, (64, 32))
    with pytest.raises(ExportFailure, match="the exported network gives"):
        compare(graph, lambda image: graph(image)[:, :, 1:], (64, 32))
    with pytest.raises(ExportFailure, match="differs by nan"):
        compare(graph, lambda image: graph(image) * torch.nan, (64, 32))


def test_bad_words(
    trained: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    out = str(tmp_path / "model")
    for words, message in (
        ([str(trained), "--format", "onx", "--out", out], "onnx"),
        ([str(trained), "--out", out], "--format"),
        ([str(trained), "--format", "onnx", "--out", out], "package onnxscript: pip install onnx"),
        (["/nowhere", "--format", "onnx", "--out", out], "/nowhere: no such checkpoint"),
        ([str(trained), "--format", "onnx", "--out", str(folder)], "pass --overwrite"),
    ):
        assert main(["export", *words]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_overwrite(folder: Path, network: fastass.Segmenter, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"holds thesis\.txt, which no export writes"):
        export(network, tmp_path / "model", "safetensors", overwrite=True)
    with pytest.raises(UserError, match="is a folder, and onnx writes a file"):
        export(network, tmp_path / "model", "onnx", overwrite=True)
    for form in ("onnx", "torch-export"):
        (tmp_path / "notes").write_text("mine")
        with pytest.raises(UserError, match=f"notes: is no {form} file, so it is not replaced"):
            export(network, tmp_path / "notes", form, overwrite=True)
        export(network, tmp_path / f"{form}.out", form)
        export(network, tmp_path / f"{form}.out", form, overwrite=True)
    (tmp_path / "model" / "thesis.txt").rename(tmp_path / "model" / "README.md")
    with pytest.raises(UserError, match="exists already"):
        export(network, tmp_path / "model", "safetensors")
    export(network, tmp_path / "model", "safetensors", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == sorted(
        p.name for p in folder.iterdir()
    )


def test_the_old_folder_is_there_until_the_new_one_is(
    network: fastass.Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rename fails, or the process is killed before it."""
    out, old = tmp_path / "model", tmp_path / ".model.old"
    export(network, out, "safetensors")
    (out / "README.md").write_text("the old one")
    rename = Path.replace

    def refused(self: Path, target: Path) -> Path:
        if self.name == ".model.tmp":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refused)
        with pytest.raises(UserError, match="model: can't write: Input/output error"):
            export(network, out, "safetensors", overwrite=True)
    assert (out / "README.md").read_text() == "the old one"
    assert [path.name for path in tmp_path.iterdir() if path.name != ".model.lock"] == ["model"]
    out.replace(old)  # killed between the renames
    with pytest.raises(UserError, match="exists already"):
        export(network, out, "safetensors")
    assert (out / "README.md").read_text() == "the old one"
    export(network, out, "safetensors", overwrite=True)
    assert (out / "README.md").read_text() != "the old one"
    assert not old.exists()


def test_the_command_line_knows_every_format() -> None:
    assert tuple(WRITERS) == EXPORT_FORMATS
