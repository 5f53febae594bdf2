"""What every process of a pool does first."""

import os
import signal
import threading
from multiprocessing import parent_process


def become_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is killed.

    For `ProcessPoolExecutor(initializer=…)`, whose processes would otherwise wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
