"""Every shell block of the docs that needs nothing special runs, in order, at a reduced size."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from doc_blocks import NAMES, PAGES, ROOT, blocks

from fastass.cli.main import main

# Appended to a command; the last flag of a kind counts.
SMALL = {
    "train": "--steps 3 --start-steps 2 --batch 1 --log-every 1 --eval-every 0 --workers 1 "
    "--data-source-size 96x56 --data-target-size 96x48 --toycity-source 6 --toycity-target 24 "
    "--toycity-val 2 --plain",
    "toycity": "--source 6 --target 24 --val 2 --workers 1",
    "pack": "--workers 1",
}
# Not run, but their words are checked: they set up an environment, as `make test` itself does.
SETUP = ("make ", "pip ", "git ", ".venv/bin/", ". .venv/bin/")
COUNT = sum(1 for page in PAGES for block in blocks(page) if block.shell and not block.needs)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_run(page: Path, workplace: Path) -> None:
    shell: list[str] = []
    for block in blocks(page):
        if not block.shell or block.needs:
            continue
        for line in block.lines:
            if line.startswith("fastass "):
                _bash(shell)
                _fastass(line)
            elif line.startswith(SETUP):
                _setup(line)
            else:
                shell.append(line)
        _bash(shell)


def test_there_is_something_to_run() -> None:
    assert COUNT >= 15


BUILDERS = ("mkdocs", "material", "mkdocstrings", "jupytext")
MISSING = [name for name in BUILDERS if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; `make docs` installs them")
def test_the_site_builds_and_asks_no_other_server(tmp_path: Path) -> None:
    """Strict: a dead link, a missing anchor or a page that the navigation lacks is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|img|iframe)[^>]*src=[\"']?(?:https?:)?//", html), page
        assert not re.search(r"<link[^>]*href=[\"']?(?:https?:)?//", html), page


def _fastass(line: str) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "pack" and "--verify" in words:
        assert main(words) == 0, line
    else:
        assert main([*words, *SMALL.get(words[0], "").split()]) == 0, line


def _setup(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [w for w in words[1:] if "=" not in w]
        assert all(re.search(f"^{target}:", makefile, re.M) for target in targets), line
    elif words[0] == "pip":
        extras = re.findall(r"\[([\w,]+)\]", line)
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(f"\n{e} = [" in project for group in extras for e in group.split(",")), line


def _bash(lines: list[str]) -> None:
    """Run what has been gathered: lines may belong together."""
    if lines:
        done = subprocess.run(
            ["bash", "-euc", "\n".join(lines)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (lines, done.stderr)
        lines.clear()
