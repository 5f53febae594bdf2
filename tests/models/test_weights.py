"""Published weight files: their names, written out here from the architectures, and what loads."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fastass.models import DeepLab, ModelConfig, build_deeplab
from fastass.models.weights.init import WeightsError, init_weights, load_weights

State = dict[str, Tensor]
DEPTHS = {"resnet101": (3, 4, 23, 3), "resnet50": (3, 4, 6, 3), "resnet18": (2, 2, 2, 2)}
WIDTHS = (64, 128, 256, 512)
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 23, 25, 27)
VGG_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
DILATIONS = (6, 12, 18, 24)
ADAPTSEGNET = {
    "data.normalize": "bgr",
    "model.aspp_branches": 2,
    "model.align_corners": True,
}


class Maker:
    """Random tensors of a scale that keeps activations near one through a deep network."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.state: State = {}

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def conv(self, name: str, out: int, into: int, kernel: int, bias: bool = False) -> None:
        scale = (2 / (into * kernel * kernel)) ** 0.5
        self.state[f"{name}.weight"] = self.random(out, into, kernel, kernel) * scale
        if bias:
            self.state[f"{name}.bias"] = self.random(out) * 0.1

    def norm(self, name: str, channels: int, scale: float = 1.0, counter: bool = False) -> None:
        self.state[f"{name}.weight"] = (1 + 0.1 * self.random(channels)) * scale
        self.state[f"{name}.bias"] = 0.1 * self.random(channels)
        self.state[f"{name}.running_mean"] = 0.1 * self.random(channels)
        self.state[f"{name}.running_var"] = 1 + 0.2 * torch.rand(channels, generator=self.generator)
        if counter:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def resnet(self, backbone: str, counter: bool = False) -> int:
        """Stem and four stages; the channels of the last."""
        self.conv("conv1", 64, 3, 7)
        self.norm("bn1", 64, counter=counter)
        into = 64
        for stage, (depth, width) in enumerate(zip(DEPTHS[backbone], WIDTHS, strict=True), 1):
            out = width if backbone == "resnet18" else 4 * width
            for block in range(depth):
                name = f"layer{stage}.{block}"
                if backbone == "resnet18":
                    convs = [(width, into, 3), (width, width, 3)]
                else:
                    convs = [(width, into, 1), (width, width, 3), (out, width, 1)]
                for i, shape in enumerate(convs, 1):
                    self.conv(f"{name}.conv{i}", *shape)
                    scale = 0.3 if i == len(convs) else 1.0
                    self.norm(f"{name}.bn{i}", shape[0], scale, counter)
                if block == 0 and out != into:
                    self.conv(f"{name}.downsample.0", out, into, 1)
                    self.norm(f"{name}.downsample.1", out, counter=counter)
                into = out
        return into

    def head(self, name: str, into: int, classes: int = 19) -> None:
        for branch in range(4):
            self.conv(f"{name}.conv2d_list.{branch}", classes, into, 3, bias=True)


def adaptsegnet(heads: str, backbone: str, classes: int = 19) -> State:
    maker = Maker()
    deep = maker.resnet(backbone)
    if heads == "multi":
        maker.head("layer5", deep // 2, classes)
        maker.head("layer6", deep, classes)
    else:
        maker.head("layer5", deep, classes)
    return maker.state


def adaptsegnet_vgg() -> State:
    maker = Maker()
    into = 3
    for index, out in zip(VGG_CONVS, VGG_CHANNELS, strict=True):
        maker.conv(f"features.{index}", out, into, 3, bias=True)
        into = out
    maker.conv("features.29", 1024, 512, 3, bias=True)
    maker.conv("features.31", 1024, 1024, 3, bias=True)
    maker.head("classifier", 1024)
    return maker.state


def torchvision_resnet(backbone: str) -> State:
    maker = Maker()
    deep = maker.resnet(backbone, counter=True)
    maker.state["fc.weight"], maker.state["fc.bias"] = maker.random(1000, deep), maker.random(1000)
    return maker.state


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(content: object, name: str = "weights.pth", legacy: bool = False) -> Path:
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        return path

    return write


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


def build(**options: object) -> DeepLab:
    """A network of zeros: random starts take time, and every test here replaces them."""
    with torch.device("meta"):
        model = DeepLab(ModelConfig(**options))  # type: ignore[arg-type]
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    return model.eval()


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


# Formats ----------------------------------------------------------------------------------------


def resnet18(**options: object) -> DeepLab:
    return build(backbone="resnet18", **options)


@pytest.fixture(scope="module")
def small() -> State:
    return adaptsegnet("single", "resnet18")


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


@pytest.mark.parametrize("prefix", ["Scale.", "module.", "module.Scale."])
def test_wrappers_prefixes(prefix: str, small: State, save: Callable[..., Path]) -> None:
    model = resnet18()
    report = init_weights(model, save(prefixed(small, prefix)))
    assert len(report.loaded) == len(small)
    own = model.state_dict()
    assert torch.equal(own["classifier.branches.3.bias"], small["layer5.conv2d_list.3.bias"])


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_checkpoints_that_wrap_a_state_dict(
    wrapper: str, small: State, save: Callable[..., Path]
) -> None:
    content = {wrapper: small, "epoch": 3, "optimizer": {"lr": 0.1}}
    assert len(init_weights(resnet18(), save(content)).loaded) == len(small)


def test_legacy_files_of_torch_04(small: State, save: Callable[..., Path]) -> None:
    assert len(init_weights(resnet18(), save(small, legacy=True)).loaded) == len(small)


def test_fastass_checkpoint_directory(tmp_path: Path) -> None:
    config = ModelConfig(backbone="tiny", width=16)
    torch.manual_seed(1)
    saved = build_deeplab(config)
    directory = tmp_path / "run" / "last"
    directory.mkdir(parents=True)
    state = {n: t.contiguous() for n, t in saved.state_dict().items()}
    content = prefixed(state, "generator.") | {"global_discriminators.0.bias": torch.zeros(3)}
    save_file(content, directory / "model.safetensors")
    model = build_deeplab(config)
    for path in (directory, directory / "model.safetensors"):
        report = init_weights(model, path)
        assert report.kind == "fastass checkpoint"
        assert set(report.skipped) == {"global_discriminators.0.bias"}
        assert not report.random
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name])
    with pytest.raises(WeightsError, match=r"no model\.safetensors .* give one of: .*last"):
        init_weights(model, tmp_path / "run")
    frozen = build_deeplab(ModelConfig(backbone="tiny", width=16, norm="frozen"))
    assert not init_weights(frozen, directory).random


# Mismatches -------------------------------------------------------------------------------------


def failure(model: DeepLab, path: Path, allow: tuple[str, ...] = ()) -> str:
    """The message; and nothing of the model has changed."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        init_weights(model, path, allow)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_heads_of_21_classes_need_an_allowance(save: Callable[..., Path]) -> None:
    """The Caffe initialisation of DeepLab has Pascal's 21 classes."""
    path = save(prefixed(adaptsegnet("single", "resnet18", classes=21), "Scale."))
    model = resnet18()
    message = failure(model, path)
    assert "classifier.branches.0.bias [21] in the file, [19] in the model" in message
    assert message.endswith("allow classifier")
    head = {n: t.clone() for n, t in model.state_dict().items() if n.startswith("classifier")}
    report = init_weights(model, path, ["classifier"])
    assert report.implies == {"data.normalize": "bgr"}
    assert report.random.keys() == head.keys()
    assert all(torch.equal(model.state_dict()[n], t) for n, t in head.items())
    assert "classifier 4: [21, 512, 3, 3] in the file, [19, 512, 3, 3] in" in str(report)


def test_single_level_into_multi_level_lacks_a_head(
    small: State, save: Callable[..., Path]
) -> None:
    model, path = resnet18(heads="multi"), save(small)
    message = failure(model, path)
    assert "aux_classifier.branches.0.bias not in the file" in message
    assert message.endswith("allow aux_classifier")
    report = init_weights(model, path, ["aux_classifier"])
    assert {name.split(".")[0] for name in report.random} == {"aux_classifier"}


def test_multi_level_into_single_level_skips_a_head(save: Callable[..., Path]) -> None:
    state = adaptsegnet("multi", "resnet18")
    model = resnet18()
    report = init_weights(model, save(state))
    assert {name.split(".")[0] for name in report.skipped} == {"layer5"}
    own = model.state_dict()["classifier.branches.0.weight"]
    assert torch.equal(own, state["layer6.conv2d_list.0.weight"])


def test_another_depth_is_a_mismatch(small: State, save: Callable[..., Path]) -> None:
    path = save(small)
    message = failure(build(backbone="resnet50"), path)
    assert "does not fit resnet50" in message
    assert "backbone.layer3.0.bn3.bias not in the file" in message
    extra = save(small | {"layer3.2.conv1.weight": torch.zeros(256, 256, 3, 3)})
    assert "backbone.layer3.2.conv1.weight not in the model" in failure(resnet18(), extra)
    report = init_weights(resnet18(), extra, ["backbone.layer3"])
    assert len(report.loaded) == len(small)
    assert set(report.skipped.values()) == {"not in the model"}


def test_missing_statistics_are_a_mismatch(small: State, save: Callable[..., Path]) -> None:
    state = {name: t for name, t in small.items() if name != "layer2.1.bn2.running_var"}
    message = failure(resnet18(), save(state))
    assert "backbone.layer2.1.bn2.running_var not in the file" in message


def test_an_allowance_that_names_nothing(small: State, save: Callable[..., Path]) -> None:
    with pytest.raises(WeightsError, match=r"no module 'clasifier'; there are .*classifier"):
        init_weights(resnet18(), save(small), ["clasifier"])


# Unusable files ---------------------------------------------------------------------------------


class Attack:
    """A pickle that would create a file when loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_refused(legacy: bool, tmp_path: Path, save: Callable[..., Path]) -> None:
    target = tmp_path / "ran"
    path = save({"conv1.weight": Attack(target)}, legacy=legacy)
    with pytest.raises(WeightsError, match=r"weights\.pth: refused, this pickle would run \S+"):
        load_weights(path)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(Attack(target)))
    with pytest.raises(WeightsError, match=r"plain\.pkl: ") as caught:
        load_weights(plain)
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth", "a.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files(name: str, keep: float, tmp_path: Path, save: Callable[..., Path]) -> None:
    state = {"conv1.weight": torch.randn(64, 3, 7, 7), "bn1.weight": torch.randn(64)}
    path = tmp_path / name
    if name.endswith(".pth"):
        save(state, name, legacy=name.startswith("legacy"))
    else:
        save_file(state, path)
    assert load_weights(path).keys() == state.keys()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsError, match=f"{name}: damaged") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"hello world\n" * 50, b"\x89PNG\r\n\x1a\n" + bytes(99), b"\x80"]
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_foreign_files(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: damaged") as caught:
        load_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([torch.zeros(2)], "holds a list, not a state dict"),
        ({}, "holds no tensors"),
        ({"a": 3}, "a is a int, not a tensor"),
        ({"bn1.weight": torch.tensor([1.0, float("nan")])}, r"bn1\.weight holds values"),
    ],
)
def test_contents_that_are_no_weights(
    content: object, problem: str, save: Callable[..., Path]
) -> None:
    with pytest.raises(WeightsError, match=problem):
        load_weights(save(content))


def test_unknown_names_and_missing_files(tmp_path: Path, save: Callable[..., Path]) -> None:
    with pytest.raises(WeightsError, match="not a ResNet, VGG-16, AdaptSegNet or fastass"):
        init_weights(resnet18(), save({"encoder.weight": torch.zeros(3)}))
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"no model\.safetensors in this directory"):
        load_weights(tmp_path)
