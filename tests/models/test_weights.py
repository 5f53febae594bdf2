"""Published weights: what they predict, and what of ImageNet's is loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from published_weights import (
    VGG_CHANNELS,
    VGG_CONVS,
    Maker,
    State,
    adaptsegnet,
    adaptsegnet_vgg,
    build,
    resnet18,
    torchvision_resnet,
)
from torch import Tensor

from fastass.models.weights.init import init_weights

DILATIONS = (6, 12, 18, 24)
ADAPTSEGNET = {
    "data.normalize": "bgr",
    "model.aspp_branches": 2,
    "model.align_corners": True,
}

# AdaptSegNet's forward, written from the architecture, in float64 -------------------------------


def reference_norm(state: State, name: str, x: Tensor) -> Tensor:
    weight, bias, mean, var = (
        state[f"{name}.{leaf}"][:, None, None]
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def reference_head(state: State, name: str, x: Tensor, branches: int) -> Tensor:
    return torch.stack(
        [
            F.conv2d(
                x,
                state[f"{name}.conv2d_list.{i}.weight"],
                state[f"{name}.conv2d_list.{i}.bias"],
                padding=DILATIONS[i],
                dilation=DILATIONS[i],
            )
            for i in range(branches)
        ]
    ).sum(0)


def reference_resnet(state: State, x: Tensor) -> dict[int, Tensor]:
    """Outputs of the four stages."""
    x = F.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    x = reference_norm(state, "bn1", x).relu()
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    outputs = {}
    for stage in (1, 2, 3, 4):
        dilation = {1: 1, 2: 1, 3: 2, 4: 4}[stage]
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            name = f"layer{stage}.{block}"
            stride = 2 if (stage, block) == (2, 0) else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride)
            y = reference_norm(state, f"{name}.bn1", y).relu()
            y = F.conv2d(y, state[f"{name}.conv2.weight"], padding=dilation, dilation=dilation)
            y = reference_norm(state, f"{name}.bn2", y).relu()
            y = F.conv2d(y, state[f"{name}.conv3.weight"])
            y = reference_norm(state, f"{name}.bn3", y)
            if block == 0:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = reference_norm(state, f"{name}.downsample.1", x)
            x = (x + y).relu()
            block += 1
        outputs[stage] = x
    return outputs


def reference_vgg(state: State, x: Tensor) -> Tensor:
    for index in (*VGG_CONVS, 29, 31):
        dilation = 4 if index >= 29 else 2 if index >= 23 else 1
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        x = F.conv2d(x, weight, bias, padding=dilation, dilation=dilation).relu()
        if index in (2, 7, 14):
            x = F.max_pool2d(x, 2, 2)
    return x


def picture() -> Tensor:
    """27 cells wide, so that even the dilation of 24 reads more than padding."""
    return torch.randn(1, 3, 24, 209, generator=torch.Generator().manual_seed(5))


def assert_close(scores: Tensor, reference: Tensor) -> None:
    """To 1e-4, and the reference must be large enough for that to mean something."""
    assert reference.std() > 0.1
    assert torch.allclose(scores.double(), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("heads", "backbone", "count"), [("single", "resnet50", 273), ("multi", "resnet101", 536)]
)
def test_adaptsegnet_predicts_as_its_own_code(
    heads: str, backbone: str, count: int, save: Callable[..., Path]
) -> None:
    state = adaptsegnet(heads, backbone)
    path = save(state)
    assert len(state) == count
    exact = {name: tensor.double() for name, tensor in state.items()}
    stages = reference_resnet(exact, picture().double())
    for branches in (4, 2):
        model = build(backbone=backbone, heads=heads, aspp_branches=branches)
        report = init_weights(model, path)
        assert not report.random
        assert len(report.loaded) + len(report.skipped) == len(state)
        assert report.implies == ADAPTSEGNET
        assert len(report.skipped) == (0 if branches == 4 else 4 if heads == "single" else 8)
        with torch.no_grad():
            output = model(picture())
        if heads == "single":
            assert_close(output.scores, reference_head(exact, "layer5", stages[4], branches))
        else:
            assert_close(output.scores, reference_head(exact, "layer6", stages[4], branches))
            assert output.aux_scores is not None
            aux = reference_head(exact, "layer5", stages[3], branches)
            assert_close(output.aux_scores, aux)


def test_frozen_norm_predicts_the_same(save: Callable[..., Path]) -> None:
    state = adaptsegnet("single", "resnet50")
    model = build(backbone="resnet50", norm="frozen").train()
    assert not init_weights(model, save(state)).random
    exact = {name: tensor.double() for name, tensor in state.items()}
    deep = reference_resnet(exact, picture().double())[4]
    with torch.no_grad():
        assert_close(model(picture()).scores, reference_head(exact, "layer5", deep, 4))


def test_adaptsegnet_vgg_predicts_as_its_own_code(save: Callable[..., Path]) -> None:
    state = adaptsegnet_vgg()
    path = save(state)
    exact = {name: tensor.double() for name, tensor in state.items()}
    reference = reference_vgg(exact, picture().double())
    for branches in (4, 2):
        model = build(backbone="vgg16", aspp_branches=branches)
        report = init_weights(model, path)
        assert not report.random
        assert report.kind == "AdaptSegNet, VGG-16"
        with torch.no_grad():
            scores = model(picture()).scores
        assert_close(scores, reference_head(exact, "classifier", reference, branches))


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_imagenet_resnet_leaves_only_heads_at_random(norm: str, save: Callable[..., Path]) -> None:
    state = torchvision_resnet("resnet18")
    model = resnet18(heads="multi", norm=norm)
    heads = {n: t.clone() for n, t in model.state_dict().items() if "classifier" in n}
    report = init_weights(model, save(state))
    assert report.kind == "ImageNet ResNet"
    assert report.implies == {"data.normalize": "imagenet"}
    assert report.random.keys() == heads.keys()
    skipped = set(report.skipped)
    assert {"fc.weight", "fc.bias"} <= skipped
    assert len(skipped) == (2 if norm == "batch" else 2 + 20)
    own = model.state_dict()
    for name, tensor in state.items():
        if name not in skipped:
            assert torch.equal(own[f"backbone.{name}"], tensor), name
    for name, tensor in heads.items():
        assert torch.equal(own[name], tensor)
    lines = str(report).splitlines()
    assert "ImageNet ResNet" in lines[0]
    assert any("skipped" in line and "fc 2" in line for line in lines)
    assert any("random" in line and "aux_classifier 8" in line for line in lines)


def test_imagenet_vgg_moves_conv5(save: Callable[..., Path]) -> None:
    maker = Maker()
    into = 3
    torchvision = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    for index, out in zip(torchvision, VGG_CHANNELS, strict=True):
        maker.conv(f"features.{index}", out, into, 3, bias=True)
        into = out
    maker.state["classifier.0.weight"] = torch.zeros(8, 25088)
    model = build(backbone="vgg16")
    report = init_weights(model, save(maker.state))
    assert {name.rsplit(".", 1)[0] for name in report.random} == {
        "backbone.features.29",
        "backbone.features.31",
        *(f"classifier.branches.{i}" for i in range(4)),
    }
    assert set(report.skipped) == {"classifier.0.weight"}
    own = model.state_dict()
    for theirs, ours in ((21, 21), (24, 23), (26, 25), (28, 27)):
        loaded = own[f"backbone.features.{ours}.weight"]
        assert torch.equal(loaded, maker.state[f"features.{theirs}.weight"])
