"""A lock that one process holds at a time, and that dies with its holder."""

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastass.pipelines.errors import DataError, printable

_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
POLL = 0.2  # seconds between two tries of a process that waits
UNLOCKED = -1  # no descriptor


def _to_stderr(line: str) -> None:
    print(f"fastass: {printable(line)}", file=sys.stderr)


@contextmanager
def locked(
    path: Path,
    task: str,
    *,
    wait: bool = False,
    on_wait: Callable[[str], None] | None = None,
    on_unlocked: Callable[[str], None] = _to_stderr,
) -> Iterator[tuple[int, ...]]:
    """Hold the lock file `path` during a `with` block; → its descriptor.

    The lock is the system's (flock), so it ends with a killed holder; the file that remains is
    simply locked by the next one. Only the holder removes the file, and nobody replaces it: a
    process that opened it before its removal notices, and opens the new one. A child that gets the
    descriptor holds the lock too, until it ends.

    task: what the holder does, as in "is {task}". If another process holds the lock, raises
    DataError with that process; with `wait`, waits for it and first calls `on_wait` with one line.
    Where the file system has no locks, `on_unlocked` gets a line, and the block runs without.
    Raises OSError if the file cannot be created or locked.
    """
    waiting = False
    while (handle := _lock_or_tell(path, task, on_unlocked)) is None:
        line = f"{path.parent}: {_holder(path)} is {task}"
        if not wait:
            raise DataError(line)
        if not waiting and on_wait is not None:
            on_wait(f"{line}; waiting for it to finish")
        waiting = True
        time.sleep(POLL)
    try:
        if handle == UNLOCKED:
            yield ()
        else:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            yield (handle,)
    finally:
        path.unlink(missing_ok=True)
        if handle != UNLOCKED:
            os.close(handle)


def _lock_or_tell(path: Path, task: str, tell: Callable[[str], None]) -> int | None:
    try:
        return _lock(path)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        tell(
            f"{path.parent}: this file system has no locks ({error.strerror}); make sure that only "
            f"one process is {task}"
        )
        return UNLOCKED


def _lock(path: Path) -> int | None:
    """The handle of the locked file; None if another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            raise
        os.close(handle)  # its holder has removed it since we opened it


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """Who holds the lock, as far as it can be read."""
    try:
        text = path.read_bytes()[:200].decode()
    except (OSError, UnicodeDecodeError):
        text = ""
    return text or "another process"
