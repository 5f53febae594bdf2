"""Members of an elastic run as processes of this machine, to be killed and started again."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Record = dict[str, Any]

# In the lines of a member: its step did not count; its weights are not those of the others.
LOST, DIFFER = "a member was lost", "weights differ"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def has_torchft() -> bool:
    """Whether torchft and its lighthouse are installed."""
    return find_spec("torchft") is not None and _lighthouse().exists()


def _lighthouse() -> Path:
    return Path(sys.executable).parent / "torchft_lighthouse"


@contextmanager
def lighthouse() -> Iterator[str]:
    """torchft's server that agrees on the members, with short waits for one machine; → address."""
    port = free_port()
    words = ["--bind", f"[::]:{port}", "--min_replicas", "1", "--join_timeout_ms", "60000"]
    words += ["--heartbeat_timeout_ms", "1500", "--quorum_tick_ms", "50"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([_lighthouse(), *words], stdout=quiet, stderr=quiet)
    try:
        time.sleep(1)
        yield f"http://localhost:{port}"
    finally:
        process.kill()
        process.wait()


class Member:
    """A process that trains with `words`; its output goes to a file."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """By SIGKILL."""
        self.process.kill()
        self.process.wait()

    def lost(self) -> list[int]:
        """The steps that did not count for this member, once for each time."""
        lines = [line for line in self.output.splitlines() if LOST in line]
        return [int(line.split()[1].rstrip(":")) for line in lines]


class Group:
    """The members of one run, those that were killed too.

    words: the command's, but for the run directory. Ends all that live at the end.
    """

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self.words, self.folder, self.run = list(words), folder, folder / "run"
        self.members: list[Member] = []

    def start(self) -> Member:
        """One more member."""
        log = self.folder / f"member{len(self.members)}.log"
        self.members.append(Member([*self.words, "--out", str(self.run)], log))
        return self.members[-1]

    @property
    def living(self) -> list[Member]:
        return [member for member in self.members if member.process.poll() is None]

    def records(self) -> list[Record]:
        """The lines of metrics.jsonl; a kill may tear the last one."""
        path = self.run / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def joined(self) -> list[Member]:
        """The living members of the last step whose members were logged."""
        changes = [record["members"] for record in self.records() if "members" in record]
        pids = {int(name.rpartition(":")[2]) for name in changes[-1]} if changes else set()
        return [member for member in self.living if member.pid in pids]

    def step(self) -> int:
        """The last step that was logged."""
        return max((record["step"] for record in self.records()), default=0)

    def until(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """RuntimeError with the end of its output for a member that fails, or after `seconds`."""
        end = time.monotonic() + seconds
        while not condition():
            for member in self.members:
                late = time.monotonic() > end
                if late or member.process.poll() not in (None, 0, -9):
                    raise RuntimeError(f"{member.log.name}: {member.output[-1500:]}")
            time.sleep(0.05)

    def finish(self, seconds: float = 600.0) -> None:
        """Wait for the end of all that live."""
        self.until(lambda: not self.living, seconds)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *exception: object) -> None:
        for member in self.living:
            member.kill()
