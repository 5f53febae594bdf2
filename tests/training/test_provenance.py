"""How a run was made is told as far as it can be known."""

import subprocess
from pathlib import Path

import pytest

from fastass.training import provenance


def test_the_command_can_be_typed_again() -> None:
    words = ["/a/bin/fastass", "train", "--out", "runs/a b"]
    assert provenance.command(words) == "fastass train --out 'runs/a b'"
    assert provenance.command(["/x/fastass/__main__.py", "train"]) == "fastass train"
    assert provenance.command(["train.py", "5"]) == "python train.py 5"
    assert provenance.command([]) == "python ''"


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    git("init", "--quiet")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    monkeypatch.setattr(provenance, "_of_installation", lambda: None)
    (tmp_path / "__init__.py").write_text("")
    assert provenance.commit() is None  # git does not track it: it says nothing about the file
    git("add", "__init__.py")
    git("commit", "--quiet", "--message", "one")
    assert provenance.commit() == git("rev-parse", "HEAD")
    (tmp_path / "__init__.py").write_text("1")
    assert provenance.commit() == git("rev-parse", "HEAD") + "+"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert provenance.commit() is None
