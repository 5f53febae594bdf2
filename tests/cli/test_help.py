"""Help texts: defaults, types, ranges, folded names, and the flags that `--help-all` adds."""

import argparse
import re
from collections.abc import Iterator

import pytest

from fastass.cli.main import build_parser, main
from fastass.cli.train import COMMON
from fastass.config.text import settable
from fastass.pipelines.datasets.layouts import LAYOUTS


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """A help text in one line."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_train_shows_the_common_flags_with_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train", "--help")
    assert {leaf.path for leaf in settable()} >= COMMON
    assert "--source-size VALUE" in text
    assert "--data-source-size" not in text
    assert "--nesterov" not in text
    assert "--amp, --no-amp Mixed" in text
    assert "[whole number, at least 1 or auto; default 1, toycity 4]" in text
    assert "lists them [default toycity]" in text
    assert text.endswith(f"--help-all shows {len(settable()) - len(COMMON)} more flags")


def test_help_all_shows_every_flag_with_all_names(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train", "--help-all")
    for leaf in settable():
        assert leaf.flag in text
    assert "--data-source-size VALUE, --source-size VALUE" in text
    assert "--nesterov" in text


@pytest.mark.parametrize("words", [["pack"], ["eval"], ["bench", "data"], ["train", "--help-all"]])
def test_layouts_come_from_their_table(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, *words, *([] if words[-1] == "--help-all" else ["--help"]))
    assert f"auto, {', '.join(LAYOUTS)} or MODULE:NAME; default auto" in text


def test_required_flags_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "pack", "--help")
    _, _, group = text.partition("required, unless --verify is given:")
    assert re.findall(r"--\w+", group)[:3] == ["--root", "--size", "--out"]
    assert "number of processes [whole number, at least 1; default: one per core]" in text
    assert "--out DIR" in shown(capsys, "predict", "--help").partition("positional")[0]


def test_pack_without_a_root_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "--size", "8x8", "--out", "x"]) == 2
    assert "pack needs --root DIR" in capsys.readouterr().err


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of every command and of every part of one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield sub
                yield from commands(sub)


@pytest.mark.parametrize("sub", [*commands(build_parser())], ids=lambda sub: sub.prog)
def test_a_default_is_said_once_and_in_brackets(sub: argparse.ArgumentParser) -> None:
    text = " ".join(sub.format_help().split())
    for action in sub._actions:
        end = re.search(r"\(([^()]+)\)$", action.help or "")
        assert end is None or end[1] != str(action.default), action.help
    assert [part for part in re.findall(r"\[([^\]]*)\]", text) if part.count("default") > 1] == []


@pytest.mark.parametrize("part", ["step", "train", "scale"])
def test_benchmarks_fold_rare_flags(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "bench", part, "--help")
    assert "--nesterov" not in text
    assert "--rounds N" in text
    assert "--nesterov" in shown(capsys, "bench", part, "--help-all")
