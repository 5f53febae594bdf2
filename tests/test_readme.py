"""What the README and the docs say exists."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from doc_blocks import NAMES, PAGES, ROOT, blocks

from fastass.cli.main import COMMANDS, build_parser
from fastass.config.presets import PRESETS


def test_the_folder_map_is_complete() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)/` \|", readme, flags=re.MULTILINE))
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    hidden = {line.strip("/") for line in ignored}
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name[0] not in "._"}
    assert listed == {name for name in folders if name not in hidden}
    assert set(re.findall(r"^\| `fastass (\w+)", readme, flags=re.MULTILINE)) == set(COMMANDS)


def flags_of(command: argparse.ArgumentParser, words: list[str]) -> dict[str, argparse.Action]:
    """The flags of a command, or of its part: `fastass bench step`."""
    for action in command._actions:
        if isinstance(action.choices, dict):
            return flags_of(action.choices[words[2]], words)
    return command._option_string_actions


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_and_commands(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    parser = build_parser()
    subparsers = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    for block in blocks(page):
        assert block.shell or not block.looks_like_commands or block.language == "python", (
            f"{block.text!r}: commands are ```sh, see tests/support/doc_blocks.py"
        )
        for line in block.lines if block.shell else ():
            words = shlex.split(line)
            if len(words) < 2 or words[0] != "fastass":
                continue
            known = flags_of(subparsers[words[1]], words)
            flags = {w for w in words if re.fullmatch(r"--[\w-]+", w)}
            assert flags <= set(known), line
            if words[1] == "train" and not words[2].startswith("-"):
                assert words[2] in PRESETS, line
    assert "@@" not in text, "a placeholder was left"


def test_quoted_code_is_in_the_file_named() -> None:
    page = ROOT / "docs" / "add-an-op.md"
    quotes = [block for block in blocks(page) if block.language == "python"]
    assert len(quotes) >= 4
    for block in quotes:
        first, *lines = block.text.splitlines()
        source = (ROOT / first.removeprefix("# ")).read_text(encoding="utf-8").splitlines()
        assert set(lines) <= set(source), set(lines) - set(source)
