"""Processes for the tests that kill, disturb and measure them: parents with workers, forked
victims, and how much memory a call takes."""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from child import environment


def start(script: str, folder: Path, *arguments: Path) -> subprocess.Popen[str]:
    """Runs a script, which must be a file for its workers to find it, with pipes to read from."""
    path = folder / "parent.py"
    path.write_text(script)
    command = [sys.executable, str(path), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(process: int) -> list[int]:
    """Of the main thread (Linux)."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def spawned(processes: list[int]) -> list[int]:
    """Those that are workers, not the resource tracker."""
    return [process for process in processes if b"spawn_main" in command_line(process)]


def command_line(process: int) -> bytes:
    """Empty once the process has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def ended(processes: list[int], within: float) -> bool:
    """Whether all have ended after at most `within` seconds."""
    end = time.monotonic() + within
    while any(command_line(process) for process in processes) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(command_line(process) for process in processes)


def check_workers_end(begin: Callable[[], subprocess.Popen[str]], message: str) -> None:
    """A killed worker ends its parent with one line; a killed parent leaves no worker behind.

    begin: starts the parent and returns once its workers are at work.
    """
    process = begin()
    os.kill(spawned(children(process.pid))[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message in errors.splitlines()[-1]

    process = begin()
    left = children(process.pid)
    process.kill()
    process.communicate()
    assert ended(left, within=20)


def alone(function: Callable[..., Any], *arguments: Any, within: Sequence[str] = ()) -> Any:
    """`function(*arguments)` of a test module in a process of its own with one thread.

    It may fork without harm, which pytest's process, with threads of other tests, may not.
    Arguments and result travel as JSON. within: a command that runs it, such as `unshare -rm`.
    """
    words = [function.__module__, function.__name__, json.dumps(arguments, default=str)]
    command = [*within, sys.executable, __file__, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(OMP_NUM_THREADS="1"), check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def victim(
    words: list[str], output: Path, prepare: Callable[[], None] = lambda: None
) -> ForkProcess:
    """`fastass WORDS` in a forked child, after `prepare()`; what it prints goes to `output`.

    A fork of a process that has everything imported takes no seconds to start.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_command, args=(words, output, prepare)
    )
    process.start()
    return process


def _command(words: list[str], output: Path, prepare: Callable[[], None]) -> None:
    from fastass.cli.main import main

    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        prepare()
        sys.exit(main(words))


def command(words: list[str], output: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """`victim`, waited for; → its exit code."""
    process = victim(words, output, prepare)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


if __name__ == "__main__":
    import torch

    from fastass.cli.main import build_parser

    torch.set_num_threads(1)
    build_parser()  # reads the help from the sources, and keeps it
    function = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    print(json.dumps(function(*json.loads(sys.argv[3]))))


MIB = 1 << 10  # in the kB of /proc
SLACK = 32 * MIB
"""What allocators, caches and first imports may add to a small file's need."""
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kb(key: str) -> int:
    return int(_STATUS.read_text().partition(f"{key}:")[2].split()[0])


@contextmanager
def growth_below(honest_kb: int = 0) -> Iterator[None]:
    """AssertionError if the process's peak grows by more than 4 × the honest need and `SLACK`.

    honest_kb: what a sound file of this kind needs. Linux alone has the peak; elsewhere nothing is
    measured.
    """
    try:
        _RESET.write_text("5")  # the peak starts anew
    except OSError:
        yield
        return
    before = _kb("VmRSS")
    yield
    grown = _kb("VmHWM") - before
    assert grown <= 4 * honest_kb + SLACK, f"{grown // MIB} MiB for one file"
