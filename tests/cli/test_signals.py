"""A signal ends a command with one line, and with it the processes that it started.

Training has its own: see tests/training/test_loop.py; for grids of runs tests/reproduce.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child import HEARS_SIGNALS, environment
from processes import children, ended
from tiny_runs import train

from fastass.checkpoint.files import find_checkpoint
from fastass.runtime.signals import Terminated, describe_interrupt


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


def test_a_training_whose_output_is_closed_saves(city: Path, tmp_path: Path) -> None:
    """As with `| head`: nobody reads on, and nothing that was trained is lost."""
    out = tmp_path / "run"
    words = [sys.executable, "-m", "fastass", *train(city, out, "--steps", "400")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, env=environment(), stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as lines, process.stderr as stderr:
        next(line for line in lines if line.startswith("step 4: "))
        lines.close()
        errors = stderr.read()
    assert process.wait(timeout=60) == 141
    saved = find_checkpoint(out / "last").name.removeprefix("step-").lstrip("0")
    assert errors == (
        f"fastass: SIGPIPE: saved at step {saved}; continue with "
        f"`fastass train --out {out} --resume`\n"
    )
    assert 4 <= int(saved) < 400


def test_a_closed_output_ends_other_commands_in_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fastass", "toycity", str(tmp_path / "city")]
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(words, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert run.stderr == "fastass: interrupted by SIGPIPE\n"
    assert run.returncode == 141


def test_a_signal_that_an_import_swallows_still_ends_the_command(tmp_path: Path) -> None:
    """Modules catch what their optional parts raise; some of them catch everything."""
    swallowing = (
        "import os, signal, sys\n"
        "from fastass.__main__ import main\n"
        "from fastass.runtime.signals import raise_terminated\n"
        "raise_terminated()\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "except BaseException:\n"
        "    pass\n"
        f"sys.argv[1:] = ['toycity', {str(tmp_path / 'city')!r}]\n"
        "sys.exit(main())\n"
    )
    words = [sys.executable, "-c", swallowing]
    run = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60)
    assert run.stderr == "fastass: interrupted by SIGTERM\n"
    assert run.returncode == 143


def test_a_rank_that_torchrun_ends_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank has told its error; one line is enough."""
    ended = Terminated(signal.SIGTERM)
    assert describe_interrupt(ended) == ("fastass: interrupted by SIGTERM", 143)
    monkeypatch.setenv("RANK", "1")
    assert describe_interrupt(ended) == ("", 143)
    assert describe_interrupt(KeyboardInterrupt()) == ("fastass: interrupted", 130)
