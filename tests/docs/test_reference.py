"""The reference pages: each field, flag, name and file of the code is in them."""

import argparse
import re

import pytest
import reference_commands
import reference_configuration
from doc_blocks import ROOT

import fastass
from fastass import kernels
from fastass.checkpoint import own_files, pointers, run_lock
from fastass.cli.main import build_parser
from fastass.cli.parser import AllNames
from fastass.config.text import leaves, settable
from fastass.inference import formats
from fastass.inference.export import folder
from fastass.pipelines.datasets import class_file, layouts
from fastass.pipelines.packed import manifest

CONFIGURATION = reference_configuration.page()
COMMANDS = reference_commands.page()
SUBCOMMANDS = list(reference_commands.commands(build_parser()))


def handwritten(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")


def in_backticks(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.path)
def test_a_field_has_its_text_and_facts(leaf) -> None:
    heading = f"### `{leaf.path}` "
    entry = CONFIGURATION.partition(heading)[2].partition("\n#")[0]
    assert CONFIGURATION.count(heading) == 1
    assert len(leaf.help.split()) >= 3
    assert reference_configuration._linked(leaf.help) in entry
    assert reference_configuration.facts(leaf) in entry
    assert ("- Flag: `" + leaf.flag + "`" in entry) == (leaf in settable())


@pytest.mark.parametrize(("name", "sub"), SUBCOMMANDS, ids=[name for name, _ in SUBCOMMANDS])
def test_a_command_has_each_flag(name: str, sub: argparse.ArgumentParser) -> None:
    (entry,) = re.findall(rf"^##+ {name}\n(.*?)(?=^##|\Z)", COMMANDS, re.M | re.S)
    parts = any(isinstance(a, argparse._SubParsersAction) for a in sub._actions)
    for action in sub._actions:
        if action.dest in {"help", "help_all", "part"}:
            continue
        if action.default is argparse.SUPPRESS:  # a value of the configuration
            assert action.dest in {leaf.path for leaf in settable()}
            assert reference_commands.CONFIGURATION in entry
            continue
        invocation = AllNames(sub.prog, width=10_000)._format_action_invocation(action)
        assert f"\n`{invocation}`\n:   " in entry
        assert action.help
    assert parts or "```text\nfastass " in entry


def test_a_flag_of_the_configuration_is_no_flag_of_a_command() -> None:
    assert "`--seed SEED`" not in COMMANDS
    assert "--nesterov" not in COMMANDS
    assert "`--nesterov`" in CONFIGURATION


def test_the_python_page_has_every_public_name() -> None:
    shown = set(re.findall(r"^::: (\S+)", handwritten("python.md"), re.M))
    assert shown >= {f"fastass.{name}" for name in fastass.__all__}
    for path in shown - {f"fastass.{name}" for name in fastass.__all__}:
        assert callable(getattr(kernels, path.removeprefix("fastass.kernels.")))


def test_the_run_directory_page_names_every_file() -> None:
    names = in_backticks(handwritten("run-directory.md"))
    files = {
        value
        for key, value in vars(own_files).items()
        if key.isupper() and isinstance(value, str) and key != "DAMAGE"
    }
    assert files >= {"fastass.json", "metrics.jsonl", "checkpoints", "tensorboard"}
    wanted = files | set(pointers.POINTERS) | set(pointers.FILES) | {run_lock.LOCK}
    assert wanted - names == set()
    rows = re.findall(r"^\| (`[^|]+`) \|", handwritten("run-directory.md"), re.M)
    assert in_backticks(" ".join(rows)) - wanted == set()


def test_the_file_formats_page_names_keys_and_files() -> None:
    names = in_backticks(handwritten("file-formats.md"))
    assert set(class_file._KEYS) - names == set()
    assert {name for name in layouts.LAYOUTS if name != "auto"} - names == set()
    assert {manifest.MANIFEST, manifest.UNFINISHED, "packing.lock"} - names == set()
    assert set(formats.PREDICTION_FORMATS) - names == set()
    assert {f"NAME_{name}.png" for name in formats.PREDICTION_FORMATS} - names == set()
    assert set(formats.EXPORT_FORMATS) - names == set()
    assert set(folder.FILES) - names == set()
