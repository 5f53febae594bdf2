"""Pools of worker processes that end with their parent; a killed worker is a one-line error."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

from fastass.pipelines.errors import DataError

_STARTING = threading.Lock()


class _Worker(SpawnProcess):
    """A spawned process that does not import the main script, as others do.

    A script that trains without `if __name__ == "__main__":` would train once more in each worker.
    What a worker runs lies in modules, never in the script.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        with _STARTING:
            script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = script


class _Spawn(SpawnContext):
    Process = _Worker


def become_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is killed.

    Each process of a pool calls this first; it would otherwise outlive its parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def worker_pool(
    workers: int,
    task: str,
    initializer: Callable[..., None] = become_worker,
    initargs: tuple[Any, ...] = (),
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes for a `with` block. Tasks that have not begun by its end are dropped.

    Processes are started by spawn: a fork hangs if OpenMP ran before. They do not import the main
    script: initializer, its arguments and tasks must lie in modules. initializer: must call
    `become_worker`. Raises DataError, naming the task, if the system kills a worker.
    """
    pool = ProcessPoolExecutor(workers, _Spawn(), initializer, initargs)
    try:
        yield pool
    except BrokenProcessPool:
        raise DataError(
            f"a {task} worker was killed, perhaps because memory ran out; run the same command "
            "again with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
