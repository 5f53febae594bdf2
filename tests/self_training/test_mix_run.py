"""A whole run with --mix: it resumes to the bit, logs what it mixes, and refuses bad input."""

import json
from pathlib import Path

import pytest
import tiny_runs

from fastass.checkpoint.run_directory import METRICS
from fastass.cli.main import main

MIX = ("--mix", "--batch", "2", "--accumulate", "1")


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.city(tmp_path_factory.mktemp("data") / "city")


@pytest.mark.parametrize("method", ["joint", "ga+csa"])
def test_a_resumed_run_is_exact(city: Path, tmp_path: Path, method: str) -> None:
    calm, run = tmp_path / "calm", tmp_path / "run"
    words = (*MIX, "--method", method)
    assert main(tiny_runs.train(city, calm, *words)) == 0
    for stop in ("1", "3", "5"):
        assert main([*tiny_runs.train(city, run, *words), "--stop-at", stop]) == 0
    assert main(tiny_runs.train(city, run, *words)) == 0
    tiny_runs.assert_same(run, calm)
    weights = tiny_runs.weights(run)
    teacher = {n.removeprefix("teacher.") for n in weights if n.startswith("teacher.")}
    assert teacher == {n.removeprefix("generator.") for n in weights if n.startswith("generator.")}
    records = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    mixing = [r for r in records if "terms" in r and r["step"] > 2]
    assert all(r["terms"]["mix"] > 0 for r in mixing)
    assert all(0 < r["mixing"]["pasted"] < 1 for r in mixing)
    assert all(0 <= r["mixing"]["confidence"] <= 1 for r in mixing)


def error(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails."""
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "oracle"), "--mix needs a source, and method oracle has none"),
        (("--data-source-size", "64x32", "--data-target-size", "64x40"), "they are 64x32; raise"),
        (("--data-source-size", "48x32"), "--mix crops source images to the size of target images"),
        (("--mixing-paste", "labelled", "--labelled", "0"), "--labelled N"),
        (("--mixing-paste", "labelled", "--method", "source_only"), "--mixing-paste source"),
        (("--mixing-zoom", "0.5"), "expected number, 1 to 8"),
        (("--mixing-decay", "1"), "decay: expected number"),
        (("--mixing-paste", "target"), "--paste: unknown value 'target'"),
    ],
)
def test_what_can_not_be_mixed(
    city: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    message: str,
) -> None:
    line = error(tiny_runs.train(city, tmp_path / "run", *MIX, *flags), capsys)
    assert message in line
    assert not (tmp_path / "run").exists()


def test_no_unlabelled_images(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / "leftImg8bit" / "train").mkdir(parents=True)
    words = tiny_runs.train(city, tmp_path / "run", *MIX, "--method", "joint")
    words[words.index("--data-target") + 1] = str(tmp_path / "empty")
    assert str(tmp_path / "empty") in error(words, capsys)


def test_a_teacher_and_a_run_without_one(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed, plain = tmp_path / "mixed", tmp_path / "plain"
    joint = ("--method", "joint", "--batch", "2", "--accumulate", "1", "--stop-at", "3")
    for run, flags in ((mixed, ("--mix",)), (plain, ())):
        assert main(tiny_runs.train(city, run, *joint, *flags)) == 0
    capsys.readouterr()
    for run, flag, value, other, right in (
        (mixed, "--no-mix", "False", "True", "--mix"),
        (plain, "--mix", "True", "False", "--no-mix"),
    ):
        line = error(tiny_runs.train(city, run, *joint, flag), capsys)
        assert f"mix = {value}, the run has {other}; give {right}, or take all" in line
    (mixed / "config.yaml").write_text(
        (mixed / "config.yaml").read_text().replace("mix: true", "mix: false")
    )
    assert main(tiny_runs.train(city, mixed, *joint)) != 0
    assert "the checkpoint has a teacher, and this run has none; give --mix" in said(capsys)
    (plain / "config.yaml").write_text(
        (plain / "config.yaml").read_text().replace("mix: false", "mix: true")
    )
    assert main(tiny_runs.train(city, plain, *joint, "--mix")) != 0
    assert "the checkpoint has no teacher, which --mix needs" in said(capsys)


@pytest.mark.parametrize("paste", ["source", "labelled", "both"])
def test_without_labels_or_with_all_of_them(city: Path, tmp_path: Path, paste: str) -> None:
    """Without labelled images the source alone is pasted; all target images may be labelled."""
    labelled = "2" if paste == "labelled" else "0"
    words = ("--method", "joint", "--labelled", labelled, "--mixing-paste", paste)
    assert main(tiny_runs.train(city, tmp_path / "run", *MIX, *words)) == 0
    lines = (tmp_path / "run" / METRICS).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(0 < r["mixing"]["pasted"] < 1 for r in records if "terms" in r and r["step"] > 2)
