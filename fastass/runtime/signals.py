"""Signals. Training finishes its step, saves, and leaves a run that can be resumed.

Everything else ends on SIGTERM, and when its terminal is closed, as it does on Ctrl-C.
"""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interrupted(Exception):
    """Training stopped on a signal; `code` is the exit code, 128 + the signal's number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP; whatever handles Ctrl-C handles it too."""


def raise_terminated() -> None:
    """From now on SIGTERM and SIGHUP raise `Terminated`. A second one ends the process at once.

    A signal that the process was started to ignore, as by nohup, stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(number)


def describe_interrupt(error: KeyboardInterrupt) -> tuple[str, int]:
    """(message, exit code) of a command that Ctrl-C or a signal ended."""
    number = signal.Signals(error.args[0]) if isinstance(error, Terminated) else signal.SIGINT
    by = f" by {number.name}" if isinstance(error, Terminated) else ""
    return f"fastass: interrupted{by}", 128 + number


class Interruption:
    """Inside the context the first signal only sets a flag; a second one ends the process.

    SIGHUP, of a terminal that is closed, counts unless it is ignored, as by nohup.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        for number in (signal.SIGINT, signal.SIGTERM, *hangup):
            self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._restore()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        self._restore()
        if signal.getsignal(number) is _terminate:  # it would wait for an exchange that hangs
            signal.signal(number, signal.SIG_DFL)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
