"""A run directory that the members of an elastic run share: one writes, and can be replaced.

The one that writes holds the run's lock, which the system frees when it is killed. The others keep
what they would have logged since the last step, and write what is missing of it if they take over.
"""

import json
import time
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from fastass.checkpoint.own_files import CONFIG, METRICS, is_marked
from fastass.checkpoint.run_directory import RunDirectory, inspect_run
from fastass.checkpoint.run_lock import RunIsLocked, locked_run
from fastass.errors import UserError
from fastass.pipelines.file_lock import POLL

Record = dict[str, Any]


class SharedLock:
    """The lock of a run directory, which one member at a time holds. Frees it at the end."""

    def __init__(self, path: Path) -> None:
        self.path, self.held = path, False
        self.holder = ""  # the process that holds it instead, in words
        self._stack = ExitStack()

    def take(self, patience: float = 0.0) -> bool:
        """Whether this process holds it, at the latest after `patience` seconds.

        UserError if the directory can't be written or its file system has no locks.
        """
        if not self.held:
            lock = locked_run(self.path, self._without_locks, patience=patience)
            try:
                self._stack.enter_context(lock)
            except RunIsLocked as error:
                self.holder = str(error).partition(";")[0]
                return False
            self.held = True
        return True

    def release(self) -> None:
        """Let another process have it."""
        self.held = False
        self._stack.close()

    def _without_locks(self, line: str) -> NoReturn:
        raise UserError(f"--elastic: {line.partition(';')[0]}; choose an --out that has them")

    def __enter__(self) -> "SharedLock":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def begin_or_join(lock: SharedLock, timeout: float) -> bool:
    """Whether there is a run in the directory, which this process continues or joins.

    The first process gets the lock: it continues the run from its last checkpoint, or begins one.
    The others wait until it has begun. Nothing of a run that is there changes here, because the one
    that gets the lock may have come just after a writer's death. UserError if the run has not begun
    after `timeout` seconds.
    """
    path, until = lock.path, time.monotonic() + timeout
    inspect_run(path, resume=True, overwrite=False)  # raises for a directory of others
    while not lock.take():
        if _is_there(path):
            return True
        if time.monotonic() > until:
            raise UserError(f"{lock.holder} and has not begun the run for {timeout:g} s")
        time.sleep(POLL)
    return inspect_run(path, resume=True, overwrite=False) or _is_there(path)


def _is_there(path: Path) -> bool:
    """Whether a run has begun, also one without a checkpoint."""
    return is_marked(path) and (path / CONFIG).exists()


class SharedRunDirectory(RunDirectory):
    """A run directory whose writer can change: `writes` says whether it is this process."""

    def __init__(
        self, path: Path, *, writes: bool, also: Callable[[Record], None] | None = None
    ) -> None:
        super().__init__(path, writes=writes, also=also)
        self.kept: list[Record] = []  # since the last step, not written by this process

    def log(self, record: Record) -> None:
        """Append a line to metrics.jsonl, or keep it in case that the writer dies."""
        if self.writes:
            super().log(record)
        else:
            self.kept.append(record)

    def forget_kept(self) -> None:
        """The writer has taken part in a step since: it has written what this process keeps."""
        self.kept.clear()

    def take_over(self, step: int, evaluated: Container[int]) -> None:
        """Write from now on, at `step`: first what the writer before has not written any more.

        evaluated: as of `forget_after`.
        """
        self.writes = True
        self.forget_after(step, evaluated)  # also a line that its kill has torn, or a damaged one
        written = {_key(record) for record in self._records()}
        for record in self.kept:
            if _key(record) not in written:
                self.log(record)
        self.kept.clear()

    def _records(self) -> Sequence[Record]:
        path = self.path / METRICS
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]


def _key(record: Record) -> tuple[int, bool, bool]:
    """What it is a record of: a step's losses, its evaluation or its members."""
    return record["step"], "eval" in record, "members" in record
