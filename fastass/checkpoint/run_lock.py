"""One writer in a run directory: a lock that is taken first and dies with its holder."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fastass.errors import DataError, UserError
from fastass.pipelines.file_lock import POLL, locked

LOCK = ".lock"
PATIENCE = 5.0  # seconds that a resumed run waits: a requeued job's predecessor may still be ending


class RunIsLocked(UserError):
    """Another process trains in the run directory."""


@contextmanager
def locked_run(
    path: Path, report: Callable[[str], None], *, patience: float = 0.0
) -> Iterator[None]:
    """Hold the lock of a run directory, which is made if it is not there.

    The lock is the system's, so that of a killed process is free, and that of a rank whose launcher
    was killed is held until the rank has ended. A directory that is still empty at the end is
    removed. report: gets a line where the file system has no locks. Raises RunIsLocked if another
    process still holds the lock after `patience` seconds, UserError if the directory can't be
    written.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: can't make the run directory: {error.strerror}") from None
    try:
        with _taken(path, report, patience):
            yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def _taken(path: Path, report: Callable[[str], None], patience: float) -> Iterator[None]:
    until = time.monotonic() + patience
    with ExitStack() as held:
        while True:
            lock = locked(path / LOCK, "training there", on_unlocked=report)
            try:
                lock.__enter__()
            except DataError as error:
                if time.monotonic() < until:
                    time.sleep(POLL)
                    continue
                raise RunIsLocked(f"{error}; wait for it, or choose another --out") from None
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"{path}: can't write there: {reason}") from None
            held.callback(_release, lock)
            break
        yield


def _release(lock: contextlib.AbstractContextManager[object]) -> None:
    with contextlib.suppress(OSError):  # a disk that has become read-only: the lock ends anyway
        lock.__exit__(None, None, None)
