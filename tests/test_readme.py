"""What the README and the docs say exists."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from doc_blocks import GENERATED, NAMES, PAGES, ROOT, blocks

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


MAPS = (ROOT / "README.md", ROOT / "docs" / "architecture.md")
ROOMS = sorted(  # folders with code, one level below the packages
    f"{folder}/{room.name}/"
    for folder in ("fastass", "kernels", "pipelines", "bench")
    for room in (ROOT / folder).iterdir()
    if room.is_dir() and not room.is_symlink() and room.name[0] not in "._"
    if any((*room.glob("*.py"), *room.glob("*.cpp"), *room.glob("*.h")))
)
PATH = r"`((?:fastass|kernels|pipelines|bench|tests|docs|examples)/[\w./-]*)`"


@pytest.mark.parametrize("page", MAPS, ids=["README", "architecture"])
def test_a_map_names_every_room_and_no_other(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [room for room in ROOMS if f"`{room}`" not in text] == []
    paths = [path for path in re.findall(PATH, text) if "NAME" not in path]
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []
    pictures = "".join(block.text for block in blocks(page) if block.language == "text")
    drawn = re.findall(r"(?:fastass|kernels|pipelines|bench|tests)/[\w./]+", pictures)
    assert [path for path in drawn if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", MAPS, ids=["README", "architecture"])
def test_a_map_names_what_a_file_defines(page: Path) -> None:
    """`path`: `name`, and `name` in `path`."""
    text = page.read_text(encoding="utf-8")
    pairs = re.findall(r"`([\w/]+\.py)`: `(\w+)`", text)
    pairs += [
        (path, name) for name, path in re.findall(r"`(\w+)` (?:in|\()? ?`([\w/]+\.py)`", text)
    ]
    assert len(pairs) >= 8
    for path, name in pairs:
        code = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.* = ", code, re.M), (path, name)


def test_the_map_has_every_equation() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| Eq\. ([\d, ]+): .*\| `", readme, flags=re.MULTILINE)
    assert {int(n) for row in rows for n in row.split(",")} == set(range(1, 12))


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
        linked = page.parent / target
        assert linked.exists() or linked.resolve() in GENERATED, target
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


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it tells of what was there
    rooms = "fastass|kernels|pipelines|bench|tests|examples"
    paths = re.findall(rf"`((?:{rooms})/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [p for p in paths if "NAME" not in p and not (ROOT / p).exists()] == []
