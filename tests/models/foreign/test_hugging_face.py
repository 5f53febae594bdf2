"""Backbones of Hugging Face's transformers, with random weights and without a network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import SMALL

import fastass
from fastass.checkpoint.starting_weights import check_init
from fastass.cli.main import main
from fastass.config.configure import configure
from fastass.config.schema import OptimConfig
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.foreign.hugging_face import HuggingFaceBackbone, with_configuration
from fastass.models.weights.init import init_weights
from fastass.training.optimizers.build import generator_optimizer

transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")

KINDS: dict[str, Any] = {
    "dinov2": {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 28,
        "patch_size": 14,
        "hidden_dropout_prob": 0.1,
    },
    "resnet": {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 8, 16, 24], "embedding_size": 8},
    "convnext": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 24], "drop_path_rate": 0.1},
}


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of a backbone: a folder with its config.json."""
    return backbone_folder(tmp_path / "model", request.param)


def backbone_folder(folder: Path, kind: str) -> str:
    transformers.AutoConfig.for_model(kind, **KINDS[kind]).save_pretrained(folder)
    return f"hf:{folder}"


def model_of(name: str, **values: Any) -> ModelConfig:
    return with_configuration(ModelConfig(backbone=name, num_classes=5, **values))


def test_features(name: str) -> None:
    network = build_deeplab(model_of(name, heads="multi"))
    backbone = network.backbone
    assert isinstance(backbone, HuggingFaceBackbone)
    out = network(torch.rand(2, 3, 60, 91))
    height, width = out.features.shape[2:]
    assert out.features.shape[1] == backbone.out_channels == network.features
    assert abs(height - 60 / backbone.output_stride) <= 1
    assert abs(width - 91 / backbone.output_stride) <= 1
    assert out.scores.shape == (2, 5, height, width)
    assert out.aux_scores is not None
    (out.scores.sum() + out.aux_scores.sum()).backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_four_channels(name: str) -> None:
    network = build_deeplab(model_of(name, channels=4))
    assert network(torch.rand(1, 4, 64, 64)).scores.shape[1] == 5
    plain = build_deeplab(model_of(name))
    report = init_weights(network, name, tensors=plain.state_dict())
    assert len(report.extended) == 1
    image = torch.rand(1, 4, 64, 64)
    scores = network.eval()(image).scores
    torch.testing.assert_close(scores, plain.eval()(image[:, :3]).scores, rtol=1e-4, atol=1e-5)


def test_a_network_is_rebuilt_from_its_configuration_alone(name: str) -> None:
    model = model_of(name)
    torch.manual_seed(0)
    network = build_deeplab(model).eval()
    folder = Path(name.removeprefix("hf:"))
    (folder / "config.json").unlink()
    again = build_deeplab(model).eval()
    again.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again(image).scores, network(image).scores)
    tree = json.loads(model.backbone_config)
    assert tree.get("hidden_dropout_prob", 0) == tree.get("drop_path_rate", 0) == 0


def test_every_parameter_is_in_one_layer(name: str) -> None:
    backbone = build_deeplab(model_of(name)).backbone
    layers = backbone.layers()
    every = [p for p in backbone.parameters() if p.requires_grad]
    assert sorted(id(p) for layer in layers for p in layer) == sorted(map(id, every))
    assert len(layers) >= 5


def test_layer_wise_rates(name: str) -> None:
    network = build_deeplab(model_of(name))
    groups = generator_optimizer(network, OptimConfig(lr=1.0, layer_decay=0.5), 1.0).param_groups
    rates = [group["base_lr"] for group in groups]
    assert rates[:3] == [1.0, 0.5, 0.25]
    assert rates[-1] == 10.0
    assert len(groups) == len(network.backbone.layers()) + 1
    assert any(p is q for p in groups[-2]["params"] for q in network.backbone.layers()[0])


def test_activation_checkpointing_gives_the_same_gradients(tmp_path: Path) -> None:
    name = backbone_folder(tmp_path / "model", "dinov2")
    plain = build_deeplab(model_of(name))
    saving = build_deeplab(model_of(name, checkpoint_activations=True))
    saving.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, 56, 56)
    for network in (plain, saving):
        network(image).scores.square().sum().backward()
    for p, q in zip(plain.parameters(), saving.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)


@pytest.fixture
def words(city: Path, tmp_path: Path) -> dict[str, Any]:
    name = backbone_folder(tmp_path / "model", "dinov2")
    data = {"data.source": str(city / "gta5"), "data.target": str(city / "cityscapes")}
    return {**SMALL, **data, "backbone": name, "init": "none", "plain": True}


def test_train_resume_predict_and_export(words: dict[str, Any], tmp_path: Path) -> None:
    whole = fastass.train("toycity", out=tmp_path / "whole", **words)
    with pytest.raises(fastass.Interrupted):
        fastass.train("toycity", out=tmp_path / "half", stop_at=2, **words)
    half = fastass.train(out=tmp_path / "half", resume=True, plain=True)
    assert half["per_class_iou"] == whole["per_class_iou"]
    (tmp_path / "model" / "config.json").unlink()  # a finished run needs it no more
    network = fastass.load(tmp_path / "whole", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    labels = network.predict(image)
    fastass.export(network, tmp_path / "folder", format="safetensors")
    again = fastass.load(tmp_path / "folder", device="cpu")
    np.testing.assert_array_equal(again.predict(image), labels)
    with pytest.raises(UserError, match="use --format safetensors"):
        fastass.export(network, tmp_path / "model.onnx")


def test_pretrained_weights(words: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    settings = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(5)
    source = transformers.AutoBackbone.from_config(settings)
    source.save_pretrained(folder)
    words |= {"init": "pretrained", "steps": 1, "start_steps": 0, "optim.lr": 1e-12}
    fastass.train("toycity", out=tmp_path / "run", **words)
    network = fastass.load(tmp_path / "run", device="cpu").generator
    kernel = "embeddings.patch_embeddings.projection.weight"
    torch.testing.assert_close(
        network.backbone.model.get_parameter(kernel).data,  # type: ignore[union-attr]
        source.get_parameter(kernel).data,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm": "frozen"}, "keeps the norms that it has; use norm=batch"),
        ({"backbone": "resnet10"}, "'resnet10' is not one of resnet101"),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**{"backbone": "hf:x/y", **values})


def test_a_package_that_does_not_fit_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torchvision that was built for another torch fails when transformers imports a model."""

    def fail(_: Any) -> None:
        cause = RuntimeError("operator torchvision::nms does not exist")
        raise ModuleNotFoundError("Could not import module 'ConvNextBackbone'") from cause

    model = model_of(backbone_folder(tmp_path / "model", "convnext"))
    monkeypatch.setattr(transformers.AutoBackbone, "from_config", fail)
    words = r"can't import it \(operator torchvision::nms does not exist\); if that is torchvision"
    with pytest.raises(UserError, match=words):
        build_deeplab(model)


def test_initial_weights_are_asked_for() -> None:
    config = configure("toycity", {"backbone": "hf:x/y"})
    with pytest.raises(UserError, match="--init pretrained --data-normalize imagenet"):
        check_init(config)
    with pytest.raises(UserError, match="for hf: and timm: backbones, not resnet50"):
        check_init(configure("toycity", {"backbone": "resnet50", "init": "pretrained"}))


def test_a_folder_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    words = ["train", "toycity", "--backbone", f"hf:{tmp_path}", "--init", "none", "--plain"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert "transformers has no backbone for a bert" in capsys.readouterr().err
