"""The Dockerfiles: linted, and the steps of the CPU one run as far as that works without Docker."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT

FOLDER = ROOT / "examples" / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
# Steps of root, which change the machine: not run here.
OF_ROOT = ("apt-get ", "dnf ", "useradd ")


def steps(file: Path) -> list[tuple[str, str]]:
    """(instruction, its words), continued lines joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.M)
    joined = re.sub(r"\\\n\s*", "", text)
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(instruction, words) for instruction, words in pairs]


def test_there_are_two() -> None:
    assert [file.name for file in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_they_say(file: Path) -> None:
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "USER", "ENTRYPOINT", "CMD"}
    found = steps(file)
    assert found[0][0] == "FROM"
    assert {instruction for instruction, _ in found} <= known
    assert ("USER", "1000") in found  # nobody trains as root
    extras = [e for _, words in found for e in re.findall(r"'\.\[([\w,]+)\]'", words)]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert len(extras) == 1
    assert all(f"\n{extra} = [" in project for extra in extras[0].split(","))
    text = file.read_text(encoding="utf-8")
    assert "not been built" in text or "no step of it has been run" in text
    ignored = Path(f"{file}.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv", "runs", "data"} <= set(ignored)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_lint(file: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    words = [hadolint, "--no-color", "--failure-threshold", "warning", str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_steps_of_the_cpu_image(tmp_path: Path) -> None:
    """The checkout is copied, its pip steps run in an environment of their own, and then the entry
    point. Not run: the base image, apt, the user."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PATH"] = f"{tmp_path / 'venv' / 'bin'}:{environment['PATH']}"
    folder, ran = tmp_path, []
    for instruction, words in steps(FOLDER / "cpu.Dockerfile"):
        if instruction == "WORKDIR":
            folder = tmp_path / words.strip("/")
            folder.mkdir(exist_ok=True)
        elif instruction == "COPY":
            assert words == ". ."
            for name in listed.stdout.split():
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / name).exists():
                    shutil.copy(ROOT / name, place, follow_symlinks=False)
        elif instruction == "RUN" and not words.startswith(OF_ROOT):
            subprocess.run(["sh", "-ec", words], cwd=folder, env=environment, check=True)
            ran.append(words)
        elif instruction == "ENTRYPOINT":
            (command,) = shlex.split(words.strip("[]"))
            said = subprocess.run(
                [tmp_path / "venv" / "bin" / command, "--help"],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            assert "fastass train" in said.stdout
    assert len(ran) == 2
    code = "import torch, fastass.kernels as k; print(k.__file__)"
    python = tmp_path / "venv" / "bin" / "python"
    where = subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True)
    assert str(tmp_path / "venv").encode() in where.stdout
