"""A signal ends a command with one line, and with it the processes that it started.

Training has its own: see tests/training/test_loop.py; for grids of runs tests/reproduce.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child import HEARS_SIGNALS, environment
from processes import children, ended


def generating(folder: Path, *before: str) -> subprocess.Popen[str]:
    """`fastass toycity` that has begun to write."""
    command = [sys.executable, "-m", "fastass", "toycity", str(folder), "--workers", "2"]
    words = [*HEARS_SIGNALS, *before, *command]
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(folder.rglob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(
    ("number", "how", "code"),
    [
        (signal.SIGINT, "", 130),
        (signal.SIGTERM, " by SIGTERM", 143),
        (signal.SIGHUP, " by SIGHUP", 129),
    ],
)
def test_a_signal_ends_a_command_with_one_line(
    tmp_path: Path, number: signal.Signals, how: str, code: int
) -> None:
    process = generating(tmp_path / "city")
    workers = children(process.pid)
    assert workers
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1] == f"fastass: interrupted{how}"
    assert "Traceback" not in errors
    assert process.returncode == code
    assert ended(workers, within=20)


def test_nohup_keeps_a_command_when_its_terminal_is_closed(tmp_path: Path) -> None:
    process = generating(tmp_path / "city", "nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
