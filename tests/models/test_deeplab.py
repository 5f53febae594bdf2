import itertools

import pytest
import torch
from torch import nn

from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.deeplab import DeepLab, build_deeplab


def picture(batch: int = 1, height: int = 65, width: int = 97) -> torch.Tensor:
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))
    return images.contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def resnet101() -> DeepLab:
    """Shapes only."""
    with torch.device("meta"):
        return DeepLab(ModelConfig(heads="multi"))


def convs(module: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d)}


def test_resnet101_is_adaptsegnets(resnet101: DeepLab) -> None:
    backbone = resnet101.backbone
    found = convs(backbone)
    depths = [len(getattr(backbone, f"layer{i}")) for i in (1, 2, 3, 4)]
    assert depths == [3, 4, 23, 3]
    assert len(found) == 104
    assert found["conv1"].stride == (2, 2)
    assert found["conv1"].kernel_size == (7, 7)
    # The only other strides: the first 1×1 of stage 2, and its projection.
    strided = {name for name, conv in found.items() if conv.stride == (2, 2)}
    assert strided == {"conv1", "layer2.0.conv1", "layer2.0.downsample.0"}
    dilations = {"layer1": 1, "layer2": 1, "layer3": 2, "layer4": 4}
    for name, conv in found.items():
        if conv.kernel_size == (3, 3):
            assert conv.dilation == conv.padding == (dilations[name.split(".")[0]],) * 2
        assert conv.bias is None


def test_classifiers_are_the_papers(resnet101: DeepLab) -> None:
    assert resnet101.aux_classifier is not None
    for head, inputs in ((resnet101.classifier, 2048), (resnet101.aux_classifier, 1024)):
        branches = list(convs(head).values())
        assert [b.dilation for b in branches] == [(6, 6), (12, 12), (18, 18), (24, 24)]
        assert all(b.in_channels == inputs and b.bias is not None for b in branches)


def test_random_start_is_adaptsegnets() -> None:
    torch.manual_seed(0)
    for conv in convs(DeepLab(ModelConfig(backbone="resnet18"))).values():
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(("size", "cells"), [((1280, 720), (161, 91)), ((1024, 512), (129, 65))])
def test_output_size_at_the_papers_resolutions(
    size: tuple[int, int], cells: tuple[int, int], resnet101: DeepLab
) -> None:
    output = resnet101(torch.empty(1, 3, size[1], size[0], device="meta"))
    assert output.features.shape == (1, 2048, cells[1], cells[0])
    assert output.scores.shape == (1, 19, cells[1], cells[0])
    assert output.aux_scores is not None
    assert output.aux_scores.shape == output.scores.shape


@pytest.mark.parametrize(
    ("backbone", "features", "parameters"),
    # torchvision's backbone without its classifier, plus the heads: 4·(9·N·19 + 19).
    [
        ("resnet50", 2048, 23_508_032),
        ("resnet18", 512, 11_176_512),
        ("resnet101", 2048, 42_500_160),
    ],
)
def test_backbone_has_torchvisions_parameters(
    backbone: str, features: int, parameters: int
) -> None:
    with torch.device("meta"):
        model = DeepLab(ModelConfig(backbone=backbone))
    assert sum(p.numel() for p in model.backbone.parameters()) == parameters
    assert sum(p.numel() for p in model.classifier.parameters()) == 4 * (9 * features * 19 + 19)


@pytest.mark.parametrize(
    ("backbone", "norm"),
    [
        ("resnet50", "batch"),
        ("resnet18", "frozen"),
        ("tiny", "batch"),
        ("tiny", "frozen"),
        ("tiny", "sync"),
        ("vgg16", "batch"),
    ],
)
def test_every_backbone_trains_a_step(backbone: str, norm: str) -> None:
    torch.manual_seed(0)
    model = build_deeplab(ModelConfig(backbone=backbone, norm=norm, num_classes=5))  # type: ignore[arg-type]
    output = model(picture(2, 33, 49))
    cells = (4, 6) if backbone == "vgg16" else (5, 7)
    assert output.scores.shape == (2, 5, *cells)
    assert output.features.shape[2:] == cells
    assert output.aux_scores is None
    assert output.levels == (output.scores,)
    assert output.features.is_contiguous(memory_format=torch.channels_last)
    output.scores.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_two_branches_sum_the_first_two() -> None:
    torch.manual_seed(0)
    four = build_deeplab(ModelConfig(backbone="tiny")).eval()
    two = build_deeplab(ModelConfig(backbone="tiny", aspp_branches=2)).eval()
    assert len(two.classifier.branches) == 2
    two.load_state_dict({n: t for n, t in four.state_dict().items() if n in two.state_dict()})
    output = four(picture())
    branches = four.classifier.branches
    expected = branches[0](output.features) + branches[1](output.features)
    assert torch.allclose(two(picture()).scores, expected, atol=1e-6)


def test_groups_hold_every_trainable_parameter_once(resnet101: DeepLab) -> None:
    backbone, heads = resnet101.parameter_groups()
    assert (backbone["name"], heads["name"]) == ("backbone", "classifiers")
    grouped = [id(p) for p in itertools.chain(backbone["params"], heads["params"])]
    trainable = [id(p) for p in resnet101.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    assert len(backbone["params"]) == 104  # convolutions only: the norms' affine is fixed
    assert len(heads["params"]) == 16


def test_tiny_trains_its_affine() -> None:
    model = build_deeplab(ModelConfig(backbone="tiny"))
    assert all(p.requires_grad for p in model.parameters())


def test_the_last_block_changes_the_output() -> None:
    torch.manual_seed(0)
    model = build_deeplab(ModelConfig(backbone="tiny", width=16)).eval()
    before = model(picture()).scores
    with torch.no_grad():
        model.backbone.get_submodule("layer4.0.conv2").get_parameter("weight").mul_(2)
    assert not torch.allclose(model(picture()).scores, before)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_compiles_as_one_graph(norm: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone="tiny", width=16, heads="multi", norm=norm)  # type: ignore[arg-type]
    model = build_deeplab(config).eval()

    def levels(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return model(images).levels

    compiled = torch.compile(levels, fullgraph=True, backend="aot_eager")
    for ours, eager in zip(compiled(picture()), levels(picture()), strict=True):
        assert torch.allclose(ours, eager, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"backbone": "resnet34"},
        {"heads": "triple"},
        {"norm": "group"},
        {"aspp_branches": 3},
        {"num_classes": 1},
        {"width": 24},
        {"backbone": "vgg16", "heads": "multi"},
    ],
)
def test_a_wrong_configuration_is_named(wrong: dict[str, object]) -> None:
    key, value = list(wrong.items())[-1]
    with pytest.raises(UserError, match=rf"model\.{key}: .*") as caught:
        ModelConfig(**wrong)  # type: ignore[arg-type]
    assert key == "heads" or str(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tiny_at_toycitys_size() -> None:
    with torch.device("meta"):
        model = DeepLab(ModelConfig(backbone="tiny", heads="multi"))
        output = model(torch.empty(1, 3, 128, 256))
    assert output.features.shape == (1, 96, 17, 33)
    assert [scores.shape for scores in output.levels] == [(1, 19, 17, 33)] * 2
