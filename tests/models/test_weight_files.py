"""Files of weights: the forms that load, mismatches that are named, and files that are refused."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from published_weights import (
    State,
    adaptsegnet,
    build,
    prefixed,
    resnet18,
)
from safetensors.torch import save_file

from fastass.models.config import ModelConfig
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.models.weights.init import WeightsError, init_weights, load_weights


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
