"""Commands of `fastass` in processes of their own, which end with the one that started them."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO


class Commands:
    """The commands of `fastass` that run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    @contextmanager
    def stopped_by_error(self, pool: ThreadPoolExecutor) -> Iterator[None]:
        """If the block ends by an error, the commands save and end, and no other is started."""
        try:
            yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                self._stopped = True
                for process in self._running:
                    process.send_signal(signal.SIGTERM)
            raise

    def run(
        self, words: Sequence[str], log: IO[str], env: dict[str, str], lock: tuple[int, ...]
    ) -> int:
        """→ exit code. lock: descriptors that the command inherits.

        In a session of its own: a terminal's Ctrl-C would reach it beside our SIGTERM, and the
        second signal ends a training before it has saved.
        """
        with self._lock:
            if self._stopped:
                return 128 + signal.SIGTERM
            process = subprocess.Popen(
                [sys.executable, "-m", "fastass", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=lock,
                start_new_session=True,
            )
            self._running.add(process)
        code = process.wait()
        with self._lock:
            self._running.remove(process)
        return code
