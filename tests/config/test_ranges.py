"""Ranges of numbers: each field has one, and none can be left, by a flag, a file or from Python.

Looked for the kind "a value out of range is trained": every int and float of the configuration's
tree (this test walks it), the numeric flags of the other commands (`fastass.cli.parser.typed`
in eval, predict, toycity, reproduce), pairs that contradict each other (`check_values`), the
sizes and class counts that the kernels and D_g can take (`Side`, `MAX_CLASSES`).
"""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from fastass.cli.main import main
from fastass.config.configure import configure, from_file
from fastass.config.schema import Config, DataConfig, LossConfig, Method, OptimConfig
from fastass.config.text import DERIVED, Leaf, check, leaves, override, settable, value_at
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.number_range import Range
from fastass.training.check_values import check_values


def ranges(hint: Any) -> list[tuple[type, Range]]:
    """The ranges in a type, each with the type of number."""
    if get_origin(hint) is Annotated:
        kind, limits = get_args(hint)
        return [(kind, limits)] if isinstance(limits, Range) else []
    return [found for argument in get_args(hint) for found in ranges(argument)]


def outside(kind: type, limits: Range) -> list[Any]:
    step = 1 if kind is int else 0.001
    values: list[Any] = [limits.low - step]
    values += [limits.low] if limits.open_low else []
    values += [limits.high] if limits.open_high else []
    values += [limits.high + step] if limits.high is not None else []
    values += [limits.low + 1] if limits.multiple > 1 else []
    return values + ([] if kind is int else [float("nan"), float("inf")])


NUMBERS = [leaf for leaf in leaves() if ranges(leaf.type)]


def test_every_number_has_a_range() -> None:
    """Aspp branches are a choice of two."""

    def bare(hint: Any) -> bool:
        if get_origin(hint) is Annotated:
            return False
        return hint in (int, float) or any(bare(argument) for argument in get_args(hint))

    assert [leaf.path for leaf in leaves() if bare(leaf.type)] == []
    assert len(NUMBERS) > 40


@pytest.mark.parametrize("leaf", NUMBERS, ids=lambda leaf: leaf.path)
def test_out_of_range_is_refused(leaf: Leaf, tmp_path: Path) -> None:
    kind, limits = ranges(leaf.type)[0]
    size = get_origin(leaf.type) is tuple or "resize" in leaf.path or leaf.path[5:] == "scale"
    for number in outside(kind, limits):
        value = (number, number) if size else number
        with pytest.raises(UserError, match=f"{leaf.path}: expected"):
            override(Config(), {leaf.path: value})
        if leaf.path in DERIVED:
            continue
        path = tmp_path / "config.yaml"
        keys = leaf.path.split(".")
        text = f"[{number}, {number}]" if size else str(number)
        text = text.replace("inf", ".inf").replace("nan", ".nan")
        path.write_text("".join(f"{'  ' * i}{k}:\n" for i, k in enumerate(keys))[:-1] + f" {text}")
        with pytest.raises(UserError, match=f"config.yaml: {leaf.path}: expected"):
            from_file(path)
        with pytest.raises(UserError, match=f"{leaf.path}: expected"):
            configure(None, {leaf.path: value})


@pytest.mark.parametrize("leaf", NUMBERS, ids=lambda leaf: leaf.path)
def test_the_ends_of_a_range_are_permitted(leaf: Leaf) -> None:
    kind, limits = ranges(leaf.type)[0]
    size = get_origin(leaf.type) is tuple or "resize" in leaf.path or leaf.path[5:] == "scale"
    ends: list[float] = [] if limits.open_low else [limits.low]
    ends += [] if limits.open_high or limits.high is None else [limits.high]
    for end in ends:
        value = (kind(end), kind(end)) if size else kind(end)
        assert value_at(override(Config(), {leaf.path: value}), leaf.path) == value


def test_a_configuration_built_in_python_is_checked() -> None:
    check(Config())
    with pytest.raises(UserError, match=r"optim.warmup \(--optim-warmup\): expected whole number"):
        check(Config(optim=OptimConfig(warmup=-5)))
    with pytest.raises(UserError, match=r"data\.source_size"):
        check_values(Config(data=DataConfig(source_size=(16, 64))))
    with pytest.raises(UserError, match="expected low,high, got 2,1"):
        check_values(Config(data=DataConfig(scale=(2.0, 1.0))))
    for steps, start, optim, why in (
        (10, 0, OptimConfig(schedule_steps=9), "--schedule-steps 9: the learning rate would be 0"),
        (10, 0, OptimConfig(warmup=11), "--warmup 11: is longer than --steps 10"),
        (10, 4, OptimConfig(warmup=5), "--warmup 5: is longer than --start-steps 4"),
    ):
        with pytest.raises(UserError, match=why):
            check_values(Config(steps=steps, start_steps=start, optim=optim))
    check_values(Config(steps=10, start_steps=4, optim=OptimConfig(warmup=4, schedule_steps=10)))
    for backbone, norm, why in (
        ("tiny", "frozen", "keeps constants"),
        ("vgg16", "batch", "no norms"),
    ):
        model = ModelConfig(backbone=backbone, norm=norm, norm_momentum=0.3)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=f"--norm-momentum has no effect: .*{why}"):
            check_values(Config(model=model))
    with pytest.raises(UserError, match="no effect without --data-scale"):
        check_values(Config(data=DataConfig(target_resize=(64, 64))))


def test_a_network_without_any_loss_is_refused() -> None:
    nothing = LossConfig(seg=0, gadv=0, sadv=0, mix=0)
    for method in get_args(Method):
        config = Config(method=method, labelled=2, loss=nothing, mix=method == "joint")
        with pytest.raises(UserError, match=r"every loss of the network has weight 0 \(--loss-seg"):
            check_values(config)
    check_values(Config(method="ga+csa", loss=replace(nothing, sadv=None)))  # the paper's choice
    check_values(Config(method="ga", loss=replace(nothing, gadv=0.1)))
    check_values(Config(method="joint", mix=True, loss=replace(nothing, mix=0.1)))
    with pytest.raises(UserError, match="the supervised start would learn nothing"):
        check_values(Config(method="ga", start_steps=1, loss=replace(nothing, gadv=0.1)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--warmup -5", "--warmup: expected whole number, at least 0, got '-5'"),
        ("--optim-warmup -5", "--optim-warmup: expected"),
        ("--schedule-steps -1", "--schedule-steps: expected whole number, at least 0"),
        ("--ema 1", "--ema: expected number, at least 0, below 1, got '1'"),
        ("--momentum 2", "--momentum: expected number, at least 0, below 1"),
        ("--lr 0", "--lr: expected number, above 0"),
        ("--lr nan", "--lr: expected number, above 0"),
        ("--source-size 1x1", "--source-size: expected whole number, 32 to 16384, got '1'"),
        ("--discriminator-width 0", "--discriminator-width: expected whole number, 1 to"),
        ("--d-betas 0.9,1", "--d-betas: expected number"),
        ("--shift 1.5", "--shift: expected number, 0 to 1"),
        ("--timeout 0", "--timeout: expected number"),
        ("--stop-at -3", "--stop-at: expected whole number, at least 0"),
    ],
)
def test_an_error_names_the_flag_and_nothing_is_written(
    words: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toycity", *words.split(), "--out", "o"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("toycity d --source 0", "--source: expected whole number, 1 to"),
        ("toycity d --shift 2", "--shift: expected number, 0 to 1"),
        ("toycity d --seed -1", "--seed: expected whole number, 0 to"),
        ("reproduce table1 --toycity --seeds 0", "--seeds: expected whole number, at least 1"),
        ("reproduce table1 --toycity --jobs -2", "--jobs: expected whole number, at least 1"),
        ("predict r i --out o --overlap -1", "--overlap: expected whole number, at least 0"),
        ("predict r i --out o --tile 9x9", "--tile: expected whole number, 32 to"),
        ("predict r i --out o --size 0x3", "--size: expected whole number, 1 to"),
    ],
)
def test_flags_of_other_commands(
    words: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_help_shows_range_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    shown = " ".join(capsys.readouterr().out.split())
    for leaf in settable():
        for _, limits in ranges(leaf.type)[:1]:
            assert str(limits) in shown, leaf.path
        if leaf.default is not dataclasses.MISSING and isinstance(leaf.default, (int, float)):
            word = str(leaf.default)
            assert f"default {word.lower() if leaf.type is bool else word}" in shown, leaf.path
    assert "default 150000, toycity 500" in shown


CONFIG_5 = "preset: toycity\nsteps: 7\noptim: {lr: 0.5}\n"


def test_a_file_with_a_preset_replaces_values_of_it(tmp_path: Path) -> None:
    """The kind "a key of a file has no effect": the preset, derived keys, a key twice, old names
    beside new ones (test_text.py); looked at every key that `from_yaml` reads."""
    path = tmp_path / "own.yaml"
    path.write_text(CONFIG_5)
    config = from_file(path)
    assert (config.model.backbone, config.steps, config.optim.lr) == ("tiny", 7, 0.5)
    assert (config.preset, config.start_steps) == ("toycity", 300)
    for text, message in (
        ("preset: toyctiy", "unknown preset 'toyctiy'; did you mean toycity"),
        ("model: {num_classes: 5}", "model.num_classes follows from the data"),
        ("distributed: {world: 2}", "distributed.world follows from"),
        ("preset:", "preset: expected text"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"own.yaml: {message}"):
            from_file(path)
