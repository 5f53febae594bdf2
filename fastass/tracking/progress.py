"""What long work tells while it runs, and how that becomes plain lines."""

import time
from typing import NamedTuple, Protocol, Self

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


class TrainStats(NamedTuple):
    """What training measured since the last report.

    terms: means of the losses, by the names of `fastass.method.adaptation.LossTerms`. data_wait:
    share of the time, 0 … 1, that the step waited for data. gpu_gib: peak of the GPU's allocated
    memory and its size; None on a CPU.
    """

    terms: dict[str, float]
    images_per_second: float
    data_wait: float
    gpu_gib: tuple[float, float] | None = None

    def rates(self) -> str:
        """Everything but the losses."""
        parts = [f"{self.images_per_second:.1f} images/s", f"data wait {self.data_wait:.0%}"]
        if self.gpu_gib is not None:
            parts.append("GPU {:.1f} of {:.0f} GiB".format(*self.gpu_gib))
        return " · ".join(parts)

    def losses(self) -> list[str]:
        """The losses by their names in the paper."""
        return [f"{SYMBOLS[name]} {value:.3f}" for name, value in self.terms.items()]


class Reporter(Protocol):
    """What long work tells: phases with a count, lines that stay, and how training goes."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def phase(self, name: str, total: int, done: int = 0) -> None: ...
    def advance(self, done: int) -> None: ...
    def line(self, text: str) -> None: ...
    def trained(self, step: int, window: TrainStats) -> None: ...
    def scored(self, step: int, miou: float) -> None: ...


class Plain:
    """At most one line every `every` seconds of a phase."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
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
        self._tell(done)

    def trained(self, step: int, window: TrainStats) -> None:
        self._tell(step, " · ".join([window.rates(), " ".join(window.losses())]))

    def scored(self, step: int, miou: float) -> None:
        self.line(score_line(step, miou))

    def _tell(self, done: int, note: str = "") -> None:
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

    def __exit__(self, *exception: object) -> None:
        return None

    def phase(self, name: str, total: int, done: int = 0) -> None:
        return None

    def advance(self, done: int) -> None:
        return None

    def line(self, text: str) -> None:
        return None

    def trained(self, step: int, window: TrainStats) -> None:
        return None

    def scored(self, step: int, miou: float) -> None:
        return None


def score_line(step: int, miou: float) -> str:
    """The line that stays of an evaluation."""
    return f"step {step}: mIoU {miou:.2f} on target val"
