"""Pools of worker processes that end with their parent; a killed worker is a one-line error."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

from fastass.pipelines.errors import DataError


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

    Processes are started by spawn: a fork hangs if OpenMP ran before. initializer: must call
    `become_worker`. Raises DataError, naming the task, if the system kills a worker.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer, initargs)
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
