"""SIGINT and SIGTERM: finish the step, save, and leave a run that can be resumed."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interrupted(Exception):
    """Training stopped on a signal; `code` is the exit code, 128 + the signal's number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Interruption:
    """Inside the context the first signal only sets a flag; a second one ends the process."""

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in self.signals:
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

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def check(self) -> None:
        """Raise Interrupted if a signal was received; for loops that have nothing to save."""
        if self.caught is not None:
            raise Interrupted(f"interrupted by {self.caught.name}", 128 + self.caught)
