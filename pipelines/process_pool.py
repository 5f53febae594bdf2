"""Pools of worker processes that end with their parent, and whose death is one line."""

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

    The first thing that a process of a pool does; it would otherwise wait for ever.
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
    """A pool of processes for a `with` block; what it has not begun by the end is dropped.

    Started by spawn: a fork hangs where OpenMP ran before. initializer: calls `become_worker`.
    Raises DataError, naming the task, when the system kills a worker.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer, initargs)
    try:
        yield pool
    except BrokenProcessPool:
        raise DataError(
            f"a {task} worker was killed, perhaps for want of memory; run the same command again, "
            "with fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
