"""Live progress: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

# The terms by their names in the paper.
SYMBOLS = {
    "seg_source": "L_seg(Is)",
    "seg_target": "L_seg(Itl)",
    "gadv": "L_gadv",
    "sadv": "L_sadv",
    "gd_source": "L_gd(Fs)",
    "gd_target": "L_gd(Ft)",
    "sd_source": "L_sd(Fs)",
    "sd_target": "L_sd(Ft)",
}


class Reporter(Protocol):
    """What long work tells: phases with a count, and lines that stay."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...
    def phase(self, name: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int, note: str = "") -> None: ...
    def line(self, text: str) -> None: ...


def reporter(plain: bool = False) -> Reporter:
    """Bars where standard output is a terminal, lines where it is not or `plain` is asked for."""
    return Plain() if plain or not sys.stdout.isatty() else Bars()


class Plain:
    """A line at the start of a phase, then at most one every `every` seconds."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self._name, self._total, self._first = "", 0, 0
        self._start = self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self._name, self._total, self._first = name, total, done
        self._start = self._last = time.monotonic()

    def advance(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last < self.every:
            return
        self._last = now
        made = done - self._first
        left = (self._total - done) * (now - self._start) / made if made > 0 else 0.0
        eta = f"{int(left) // 60}:{int(left) % 60:02d} left"
        self.line(f"{self._name} {done}/{self._total} · {eta}{' · ' + note if note else ''}")

    def line(self, text: str) -> None:
        print(text, flush=True)


class Silent:
    """Says nothing: of several ranks one reports."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None

    def phase(self, name: str, total: int, done: int = 0) -> None:
        return None

    def advance(self, done: int, note: str = "") -> None:
        return None

    def line(self, text: str) -> None:
        return None


class Bars:
    """One live bar; lines scroll above it."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(highlight=False),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, total: int, done: int = 0) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, completed=done, note="")

    def advance(self, done: int, note: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, note=note)

    def line(self, text: str) -> None:
        self._progress.console.print(text, markup=False, soft_wrap=True)


def terms_note(terms: dict[str, float], images_per_second: float) -> str:
    """Rate and losses in one line."""
    losses = " ".join(f"{SYMBOLS[name]} {value:.3f}" for name, value in terms.items())
    return f"{images_per_second:.1f} images/s · {losses}"
