"""Backbones of timm, with random weights and without a network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import SMALL

import fastass
from fastass.config.schema import OptimConfig
from fastass.errors import UserError
from fastass.kernels.convolution.running_statistics import collected
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.domain_statistics import running_norms
from fastass.models.foreign import pytorch_image_models
from fastass.models.weights.init import init_weights
from fastass.training.optimizers.build import generator_optimizer

try:
    import timm
except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
    pytest.skip(f"timm can't be imported: {str(error)[:80]}", allow_module_level=True)

NORMS = "timm:mobilenetv3_small_050"  # its batch norms hold the activations
# Of each: features N, output stride, layers at least.
NAMES = {
    NORMS: (288, 32, 8),
    "timm:resnet10t": (512, 32, 5),
    "timm:convnext_atto": (320, 32, 10),
    "timm:vit_tiny_patch16_224": (192, 16, 13),
}


def network_of(name: str, **values: Any) -> Any:
    torch.manual_seed(0)
    return build_deeplab(ModelConfig(backbone=name, num_classes=5, **values))


@pytest.mark.parametrize("name", NAMES)
def test_features(name: str) -> None:
    network = network_of(name, heads="multi")
    backbone = network.backbone
    features, stride, _ = NAMES[name]
    assert (backbone.out_channels, backbone.output_stride) == (features, stride)
    out = network(torch.rand(2, 3, 60, 91))
    height, width = out.features.shape[2:]
    assert out.features.shape[1] == features
    assert abs(height - 60 / stride) <= 1
    assert abs(width - 91 / stride) <= 1
    assert out.scores.shape == (2, 5, height, width)
    (out.scores.sum() + out.aux_scores.sum()).backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert len([p for p in backbone.parameters() if not p.requires_grad]) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_one_layer(name: str) -> None:
    network = network_of(name)
    layers = network.backbone.layers()
    every = [p for p in network.backbone.parameters() if p.requires_grad]
    assert sorted(id(p) for layer in layers for p in layer) == sorted(map(id, every))
    assert len(layers) >= NAMES[name][2]
    stem = next(p for p in every if p.ndim == 4)
    assert any(p is stem for p in layers[0])
    groups = generator_optimizer(network, OptimConfig(lr=1.0, layer_decay=0.5), 1.0).param_groups
    assert [group["base_lr"] for group in groups][:3] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("name", NAMES)
def test_activation_checkpointing_changes_nothing(name: str) -> None:
    plain, saving = network_of(name), network_of(name, checkpoint_activations=True)
    image = torch.rand(2, 3, 64, 64)
    for network in (plain, saving):
        network(image).scores.square().sum().backward()
    for p, q in zip(plain.parameters(), saving.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)
    for a, b in zip(plain.buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(a, b)  # running statistics: fed once


@pytest.mark.parametrize("name", [NORMS, "timm:vit_tiny_patch16_224"])
def test_four_channels(name: str) -> None:
    network, plain = network_of(name, channels=4), network_of(name)
    report = init_weights(network, name, tensors=plain.state_dict())
    assert len(report.extended) == 1
    image = torch.rand(1, 4, 64, 64)
    scores = network.eval()(image).scores
    torch.testing.assert_close(scores, plain.eval()(image[:, :3]).scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [NORMS, "timm:resnet10t"])
def test_batch_statistics_are_handed_over(name: str) -> None:
    network, plain = network_of(name), timm.create_model(name.removeprefix("timm:"))
    model = network.backbone.model
    plain.load_state_dict({**plain.state_dict(), **model.state_dict()})
    image = torch.rand(2, 3, 64, 64)
    before = [b.clone() for b in model.buffers()]
    with collected() as seen:
        inside = network(image).features
    for was, now in zip(before, model.buffers(), strict=True):
        torch.testing.assert_close(was, now)
    assert {s.norm for s in seen} == set(running_norms(model).values())
    outside = network(image).features
    torch.testing.assert_close(inside, outside)
    theirs = plain.forward_intermediates(image, norm=True, intermediates_only=True)[-1]
    torch.testing.assert_close(outside, theirs, rtol=1e-3, atol=1e-4)  # not channels last
    own = plain.state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, own[key], rtol=1e-3, atol=1e-4)


@pytest.fixture
def words(city: Path) -> dict[str, Any]:
    data = {"data.source": str(city / "gta5"), "data.target": str(city / "cityscapes")}
    return {**SMALL, **data, "backbone": NORMS, "init": "none", "plain": True}


def test_train_resume_predict_and_export(words: dict[str, Any], tmp_path: Path) -> None:
    whole = fastass.train("toycity", out=tmp_path / "whole", norm_statistics="domain", **words)
    with pytest.raises(fastass.Interrupted):
        fastass.train(
            "toycity", out=tmp_path / "half", norm_statistics="domain", stop_at=2, **words
        )
    half = fastass.train(out=tmp_path / "half", resume=True, plain=True)
    assert half["per_class_iou"] == whole["per_class_iou"]
    network = fastass.load(tmp_path / "whole", device="cpu")
    assert network.other_statistics is not None
    assert network.other_statistics.differ()
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    fastass.export(network, tmp_path / "folder", format="safetensors")
    again = fastass.load(tmp_path / "folder", device="cpu")
    np.testing.assert_array_equal(again.predict(image), network.predict(image))
    with pytest.raises(UserError, match="use --format safetensors"):
        fastass.export(network, tmp_path / "model.onnx")


def test_pretrained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    source = timm.create_model("resnet10t")
    file = tmp_path / "weights.pth"
    torch.save(source.state_dict(), file)
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **values: Any) -> Any:
        overlay = {"pretrained_cfg_overlay": {"file": str(file)}} if pretrained else {}
        return create(name, pretrained=pretrained, **overlay, **values)

    monkeypatch.setattr(timm, "create_model", offline)
    where, tensors = pytorch_image_models.pretrained_weights("timm:resnet10t")
    assert where == "timm:resnet10t"
    network = network_of("timm:resnet10t")
    assert tensors.keys() == {n for n in network.state_dict() if n.startswith("backbone.")}
    theirs = source.state_dict()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, theirs[name.removeprefix("backbone.model.")])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet", "timm .* has no model of this name"),
        ("timm:hf-hub:owner/name", "has no model of this name"),
        ("timm:beit_base_patch16_224", "no feature maps of images of any size .*; choose another"),
    ],
)
def test_what_timm_cannot_do(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        network_of(name)


def test_weights_for_another_normalisation() -> None:
    with pytest.raises(UserError, match=r"images with mean \(0.5, 0.5, 0.5\) and std .*ImageNet's"):
        pytorch_image_models.pretrained_weights("timm:vit_tiny_patch16_224")
