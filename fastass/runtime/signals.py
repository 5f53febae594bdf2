"""Signals. Training finishes its step, saves, and leaves a run that can be resumed.

Everything else ends on SIGTERM, and when its terminal is closed, as it does on Ctrl-C.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import ClassVar, Self

_received: list[int] = []  # signals that raised `Terminated`


class Interrupted(Exception):
    """Training stopped on a signal; `code` is the exit code, 128 + the signal's number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Terminated(KeyboardInterrupt):
    """SIGTERM, SIGHUP or a closed output; whatever handles Ctrl-C handles it too."""


def raise_terminated() -> None:
    """From now on SIGTERM and SIGHUP raise `Terminated`. A second one ends the process at once.

    A signal that the process was started to ignore, as by nohup, stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def end_silently() -> None:
    """The command has ended: a signal to what is left of the process prints nothing."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (_terminate, signal.default_int_handler):
            signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(number)


def raise_lost() -> None:
    """Raise `Terminated` for a signal whose error was swallowed, as happens in imports."""
    if _received:
        raise Terminated(_received[0])


def describe_interrupt(error: KeyboardInterrupt) -> tuple[str, int]:
    """(message, exit code) of a command that Ctrl-C or a signal ended.

    The message is empty for a rank that torchrun ends, because another one has told its error.
    """
    number = signal.Signals(error.args[0]) if isinstance(error, Terminated) else signal.SIGINT
    if number == signal.SIGTERM and "RANK" in os.environ:
        return "", 128 + number
    by = f" by {number.name}" if isinstance(error, Terminated) else ""
    return f"fastass: interrupted{by}", 128 + number


def output_closed() -> None:
    """The reader of the output has gone, as with `| head`: nothing more is printed.

    A training finishes its step and saves, as on a signal; elsewhere `Terminated` is raised.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    training = Interruption.current
    if training is None:
        raise Terminated(signal.SIGPIPE)
    training.caught = training.caught or signal.SIGPIPE


class Interruption:
    """Inside the context the first signal only sets a flag; a second one ends the process.

    SIGHUP, of a terminal that is closed, counts unless it is ignored, as by nohup.
    """

    current: ClassVar["Interruption | None"] = None  # of the training in this process

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        hangup = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        for number in (signal.SIGINT, signal.SIGTERM, *hangup):
            self._previous[number] = signal.signal(number, self._catch)
        Interruption.current = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        Interruption.current = None
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
