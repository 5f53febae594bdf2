"""Parents and their workers, for the tests that kill them."""

import subprocess
import sys
import time
from pathlib import Path


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
