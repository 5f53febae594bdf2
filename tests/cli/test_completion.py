"""Shell completion, as the shells themselves run it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fastass.cli.main import COMMANDS, main

# Runs the function that the script registers, on the words after the script's path.
BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_fastass "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "fastass"
    with pytest.MonkeyPatch.context() as patch, open(path, "w", encoding="utf-8") as file:
        patch.setattr("sys.stdout", file)
        assert main(["completion", "bash"]) == 0
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pre"], ["predict", "presets"]),
        (["train", "gta5_to_cityscapes_csa_5"], [f"gta5_to_cityscapes_csa_{n}" for n in (50, 500)]),
        (["train", "toycity", "--meth"], ["--method"]),
        (["train", "toycity", "--method", "ga+"], ["ga+fcsa", "ga+csa"]),
        (["export", "run", "--format", "o"], ["onnx"]),
        (["bench", "dat"], ["data"]),
        (["predict", "phot"], ["photo.jpg", "photos"]),
        (["predict", "run", "photo.jpg", "--out", "pho"], ["photos"]),
    ],
)
def test_bash(script: Path, words: list[str], expected: list[str], tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.jpg").touch()
    done = subprocess.run(
        ["bash", "-c", BASH, "-", str(script), "fastass", *words],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert sorted(set(done.stdout.split())) == sorted(expected)
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_every_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "labelled" in text
    if shutil.which(shell) and shell != "bash":
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_another_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zhs"]) == 2
    assert "SHELL: unknown value 'zhs'; did you mean zsh?" in capsys.readouterr().err
