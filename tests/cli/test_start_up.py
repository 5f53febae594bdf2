"""What every command loads before it runs: no torch, no numpy. And it is quick."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "PIL.ImageDraw", "rich", "matplotlib", "jinja2", "tabulate")
PROBE = """
import sys
sys.argv = ["fastass", *sys.argv[1:]]
from fastass.__main__ import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print("loaded:", *(name for name in {heavy} if name in sys.modules))
print("code:", code)
"""


def run(*words: str) -> str:
    """The output of the command line, and after it what it has loaded and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 2),
        (["presets"], 0),
        (["completion", "bash"], 0),
        (["trian"], 2),
        (["train", "--labeled", "5"], 2),
        (["train", "--steps", "many"], 2),
        *(([name, "--help"], 0) for name in ("train", "eval", "predict", "export", "reproduce")),
        *((["bench", part, "--help"], 0) for part in ("data", "step", "train", "scale", "model")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_errors_load_nothing_heavy(words: list[str], code: int) -> None:
    lines = run(*words).splitlines()
    assert lines[-2:] == ["loaded:", f"code: {code}"]


def test_interrupted_while_modules_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise KeyboardInterrupt")  # as Ctrl-C would
    path = [str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "fastass", "presets"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "fastass: interrupted\n")


def test_the_probe_sees_torch() -> None:
    assert "loaded: torch numpy" in run("doctor")


@pytest.mark.parametrize("words", [["--help"], ["presets"], ["trian"]], ids=" ".join)
def test_start_up_takes_less_than_half_a_second(words: list[str]) -> None:
    """CPU time, the least of three, so that other processes do not count."""
    probe = (
        "import os, subprocess, sys; subprocess.run([sys.executable, '-m', 'fastass',"
        "*sys.argv[1:]], capture_output=True); t = os.times();"
        "print(t.children_user + t.children_system)"
    )
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", probe, *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(3)
    ]
    assert min(times) < 0.5
