"""What long work reports while it runs, and how it is printed as plain lines."""

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

from fastass.method.terms import TERMS
from fastass.pipelines.errors import printable_lines
from fastass.runtime.signals import output_closed


class TrainStats(NamedTuple):
    """What training measured since the last report.

    terms: means of the losses, by the names of `fastass.method.terms.LossTerms`. data_wait: share
    of the time, 0 … 1, that the step waited for data. gpu_gib: peak of the allocated GPU memory and
    the size of the GPU's memory; None on a CPU.
    """

    terms: dict[str, float]
    images_per_second: float
    data_wait: float
    gpu_gib: tuple[float, float] | None = None

    def rates(self) -> str:
        """Throughput, waiting time and memory."""
        parts = [f"{self.images_per_second:.1f} images/s", f"data wait {self.data_wait:.0%}"]
        if self.gpu_gib is not None:
            parts.append("GPU {:.1f} of {:.0f} GiB".format(*self.gpu_gib))
        return " · ".join(parts)

    def losses(self) -> list[str]:
        """The losses by their symbols in the paper."""
        return [f"{TERMS[name].symbol} {value:.3f}" for name, value in self.terms.items()]


class Reporter(Protocol):
    """What long work reports: phases with a count, lines, and the progress of training."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def phase(self, name: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int) -> None: ...
    def line(self, text: str) -> None: ...
    def trained(self, step: int, stats: TrainStats) -> None: ...
    def scored(self, step: int, miou: float, note: str = "") -> None: ...
    def resumed(self, seconds: float, scores: Sequence[float]) -> None: ...


class Plain:
    """Prints plain lines: during a phase at most one every `interval` seconds."""

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self._name, self._total, self._first = "", 0, 0
        self._start = self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def phase(self, name: str, total: int, done: int = 0) -> None:
        self._name, self._total, self._first = name, total, done
        self._start = self._last = time.monotonic()

    def advance(self, done: int) -> None:
        self._print_progress(done)

    def trained(self, step: int, stats: TrainStats) -> None:
        self._print_progress(step, " · ".join([stats.rates(), " ".join(stats.losses())]))

    def scored(self, step: int, miou: float, note: str = "") -> None:
        self.line(score_line(step, miou, note))

    def resumed(self, seconds: float, scores: Sequence[float]) -> None:
        return None

    def _print_progress(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last < self.interval:
            return
        self._last = now
        in_phase = done - self._first
        left = (self._total - done) * (now - self._start) / in_phase if in_phase > 0 else 0.0
        eta = f"{int(left) // 60}:{int(left) % 60:02d} left"
        self.line(f"{self._name} {done}/{self._total} · {eta}{' · ' + note if note else ''}")

    def line(self, text: str) -> None:
        try:
            print(printable_lines(text), flush=True)
        except BrokenPipeError:
            output_closed()


class Silent:
    """Prints nothing: of several ranks only rank 0 reports."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def phase(self, name: str, total: int, done: int = 0) -> None:
        return None

    def advance(self, done: int) -> None:
        return None

    def line(self, text: str) -> None:
        return None

    def trained(self, step: int, stats: TrainStats) -> None:
        return None

    def scored(self, step: int, miou: float, note: str = "") -> None:
        return None

    def resumed(self, seconds: float, scores: Sequence[float]) -> None:
        return None


def score_line(step: int, miou: float, note: str = "") -> str:
    """The line that reports an evaluation."""
    return f"step {step}: mIoU {miou:.2f} on target val{f' ({note})' if note else ''}"
