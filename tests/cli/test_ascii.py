"""Terminals and pipes that can't show every character: they get a `?`, and the work goes on.

Looked at every print of the package, argparse's help, rich's live view, and torchrun's log files.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from child import environment

ASCII = {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "0"}


def run(*words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fastass", *words]
    return subprocess.run(command, capture_output=True, env=environment(**ASCII), timeout=300)


def test_train_predict_and_help(tmp_path: Path) -> None:
    city = tiny_runs.city(tmp_path / "città")
    trained = run(*tiny_runs.train(city, tmp_path / "läufe", "--steps", "1", "--start-steps", "0"))
    assert trained.returncode == 0, trained.stderr
    assert b"?" in trained.stdout  # the dots between values
    images = str(city / "cityscapes" / "leftImg8bit" / "val")
    out = str(tmp_path / "ergebnis_ä")
    predicted = run("predict", str(tmp_path / "läufe"), images, "--out", out)
    assert predicted.returncode == 0, predicted.stderr
    wrong = run("predict", str(tmp_path / "läufe"), "/nowhere/ä", "--out", out)
    assert (wrong.returncode, wrong.stderr.count(b"\n")) == (2, 1)
    for text in (trained, predicted, wrong):
        assert b"Traceback" not in text.stderr
        text.stdout.decode("ascii")
        text.stderr.decode("ascii")


@pytest.mark.parametrize("words", [("train", "--help"), ("doctor",), ("presets",), ("--help",)])
def test_texts(words: tuple[str, ...]) -> None:
    ran = run(*words)
    assert ran.returncode == 0, ran.stderr
    ran.stdout.decode("ascii")


LIVE = """
import io, sys
sys.stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
sys.stdout.isatty = lambda: True
from rich.console import Console
from fastass.tracking.terminal import reporter
with reporter() as progress:
    progress.phase("train", 10)
    progress.scored(1, 10.0)
    progress.scored(2, 20.0)
    progress.line("λ ▁ ü")
sys.__stdout__.write(repr(sys.stdout.buffer.getvalue()[-20:]))
"""


def test_the_live_view() -> None:
    command = [sys.executable, "-c", LIVE]
    ran = subprocess.run(command, capture_output=True, env=environment(TERM="xterm"), text=True)
    assert ran.returncode == 0, ran.stderr
