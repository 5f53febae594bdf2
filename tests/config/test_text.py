"""Configurations as flags and YAML: round trip, types, neighbours of a wrong word."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fastass.config.configure import from_file
from fastass.config.presets import PRESETS
from fastass.config.schema import Config
from fastass.config.text import from_yaml, leaves, override, to_yaml
from fastass.errors import UserError

VGG = {"model.backbone": "vgg16", "model.heads": "single"}


def test_every_preset_survives_the_file(tmp_path: Path) -> None:
    for preset in PRESETS.values():
        path = tmp_path / "config.yaml"
        path.write_text(to_yaml(preset.config), encoding="utf-8")
        assert from_yaml(path) == preset.config


def test_every_value_has_help_and_a_flag_of_its_own() -> None:
    every = list(leaves())
    assert all(leaf.help for leaf in every)
    assert len({leaf.flag for leaf in every}) == len(every)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("steps", "7", 7),
        ("runtime.amp", "true", True),
        ("init", "none", "none"),
        ("init", None, None),
        ("labelled_list", "none", None),
        ("data.classes", "none", ()),
        ("data.source_size", "1280x720", (1280, 720)),
        ("data.scale", "0.5,1.5", (0.5, 1.5)),
        ("data.classes", "road, sky", ("road", "sky")),
        ("optim.lr", "2.5e-4", 2.5e-4),
        ("model.aspp_branches", "2", 2),
    ],
)
def test_texts_become_the_type_of_the_field(path: str, text: str, value: object) -> None:
    config = override(Config(), {path: text})
    for part in path.split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("step", "7", "unknown key 'step'; did you mean steps"),
        ("method", "ga+csb", "did you mean ga\\+csa"),
        ("steps", "many", "steps: expected a whole number, got 'many'"),
        ("steps", 1.5, "steps: expected a whole number"),
        ("optim.lr", "fast", "optim.lr: expected a number, got 'fast'"),
        ("runtime.amp", "maybe", "amp: expected true or false"),
        ("data.source_size", "1280", "expected 2 values \\(WxH\\)"),
        ("data.source_size", 5, "expected a list"),
        ("data.classes", "road,,car", "data.classes: expected no empty value in a list"),
        ("data.source_size", "64x", "data.source_size: expected no empty value in a list"),
        ("loss.gan", "wgan", "loss.gan: unknown value 'wgan'"),
    ],
)
def test_a_wrong_key_or_value_is_named(path: str, text: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(Config(), {path: text})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "expected keys and values"),
        ("steps: [1, 2", "not valid YAML"),
        ("optim:\n  learning_rate: 1", "unknown key 'optim.learning_rate'"),
        ("lr: 1", "unknown key 'lr'; did you mean optim.lr"),
        ("seed: 1:30", "seed: expected a whole number, got '1:30'"),
        ("optim: {lr: .nan}", "optim.lr: expected number, above 0, at most 1000, got nan"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        from_yaml(path)
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="no such configuration file"):
        from_yaml(tmp_path / "absent.yaml")


def test_a_file_is_read_as_people_mean_it(tmp_path: Path) -> None:
    """YAML 1.1 reads 010 as eight, 1e-2 as text, and an empty section as a value."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "\ufeffseed: 010\r\nmix: on\r\nsteps: 1e3\r\noptim: {lr: 1e-2}\r\nmodel:\r\n"
        "runtime: {amp: yes, fused_convolutions: off}\r\ndata: {on_bad_sample: stop}\r\n",
        encoding="utf-8",
    )
    config = from_yaml(path)
    assert (config.seed, config.mix, config.steps, config.optim.lr) == (10, True, 1000, 0.01)
    assert (config.runtime.amp, config.runtime.fused_convolutions) == (True, "off")
    path.write_text(to_yaml(replace(config, labelled_list="010", init="1e3")), encoding="utf-8")
    assert (from_yaml(path).labelled_list, from_yaml(path).init) == ("010", "1e3")


def test_names_of_an_earlier_version(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("amp: true\ndevice: cpu\nsteps: 7\n")
    notes: list[str] = []
    config = from_yaml(path, notes.append)
    assert (config.runtime.amp, config.runtime.device, config.steps) == (True, "cpu", 7)
    assert notes == [
        f"{path}: written by an earlier version: amp is now runtime.amp, device is now "
        "runtime.device"
    ]
    path.write_text(to_yaml(config))
    assert from_yaml(path, notes.append) == config
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1, 1]\nb: [*a, *a]", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("steps: 1\nsteps: 2", "the key 'steps' occurs twice"),
        ("optim: {lr: 1}\noptim.lr: 2", "the key 'optim.lr' occurs twice"),
        ("anything: {}", "unknown key 'anything'"),
        ("optim: {lr: {}}", "optim.lr: expected a number, got {}"),
        ("amp: true\nruntime: {amp: false}", "amp and runtime.amp are the same"),
        ("[" * 100_000, "not valid YAML"),
        ("#" * 300_000, "more than 262144"),
        ("optim: {lr: .nan}", "optim.lr: expected number, above 0, at most 1000, got nan"),
        ("1: 2", "unknown key '1'"),
        (f"{'x' * 1000}: 2", "unknown key 'xxx"),
    ],
)
def test_a_hostile_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    for read in (from_yaml, from_file):
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            read(path)
        assert len(str(caught.value)) < 3000  # it lists the known keys
    path.write_bytes(b"steps: \xff")
    with pytest.raises(UserError, match="not valid YAML"):
        from_yaml(path)


def test_values_that_exclude_each_other_only_in_between() -> None:
    config = override(PRESETS["gta5_to_cityscapes_ga_0"].config, VGG)
    assert (config.model.backbone, config.model.heads) == ("vgg16", "single")
    assert override(config, {"model.heads": "multi", "model.backbone": "resnet50"})
    with pytest.raises(UserError, match="vgg16 has a single classifier"):
        override(config, {"model.heads": "multi"})
