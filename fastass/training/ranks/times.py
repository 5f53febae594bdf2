"""Where the time of each rank goes, and which rank the others wait for.

Ranks that exchange gradients have steps of equal length: the fast ones wait in the exchange. So a
step of a rank is divided into

    step = own + exchange,   own = data wait + the rest

with `exchange` the time in the collectives of the step: the counts of valid items before the
forward, and the gradients from the moment this rank's last one is complete. A slow rank has the
longest `own`.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastass.runtime.process_group import World

SLOWER = 0.2  # than the median of the other ranks
STEPS = 50


@dataclass(frozen=True)
class RankTimes:
    """Seconds of all ranks, by rank, in the same steps."""

    steps: int
    seconds: tuple[float, ...]
    data_wait: tuple[float, ...]
    exchange: tuple[float, ...]

    @property
    def own(self) -> list[float]:
        """Seconds that a rank needs without the others."""
        return [s - e for s, e in zip(self.seconds, self.exchange, strict=True)]

    @property
    def slowest(self) -> int:
        """The rank that the others wait for."""
        return max(range(len(self.own)), key=self.own.__getitem__)

    def slower(self) -> list[float]:
        """For each rank by what part it is slower than the median of the others."""
        own = self.own
        medians = [statistics.median(own[:r] + own[r + 1 :]) for r in range(len(own))]
        return [o / m - 1 if m > 0 else 0.0 for o, m in zip(own, medians, strict=True)]

    def record(self) -> dict[str, Any]:
        """For metrics.jsonl: milliseconds per step of every rank."""

        def per_step(seconds: Sequence[float]) -> list[float]:
            return [round(1e3 * s / self.steps, 3) for s in seconds]

        return {
            "own_ms": per_step(self.own),
            "data_wait_ms": per_step(self.data_wait),
            "exchange_ms": per_step(self.exchange),
            "slowest": self.slowest,
        }


def gather(world: World, steps: int, seconds: float, data: float, exchange: float) -> RankTimes:
    """The times of all ranks from this one's; a collective."""
    rows = torch.zeros(3, world.size, dtype=torch.float64)
    rows[:, world.rank] = torch.tensor([seconds, data, exchange], dtype=torch.float64)
    return RankTimes(steps, *(tuple(row) for row in world.sum(rows).tolist()))


@dataclass
class Stragglers:
    """Names a rank that is `SLOWER` than the others for `STEPS` steps, once until it recovers."""

    _slow: dict[int, int] = field(default_factory=dict)  # rank: steps that it has been slow

    def see(self, times: RankTimes) -> list[str]:
        """The lines on ranks that have been slow for long enough with these times."""
        lines = []
        for rank, part in enumerate(times.slower()):
            if part < SLOWER:
                self._slow.pop(rank, None)
                continue
            before = self._slow.get(rank, 0)
            now = self._slow[rank] = before + times.steps
            if before < STEPS <= now:
                of_step = times.record()
                lines.append(
                    f"rank {rank} is {part:.0%} slower than the others for {now} steps: "
                    f"{of_step['own_ms'][rank]:.0f} ms per step, "
                    f"{of_step['data_wait_ms'][rank]:.0f} of them wait for data"
                )
        return lines


class ExchangeClock:
    """Measures the exchanges of this rank's steps: by the CPU's clock, or by events on a GPU."""

    def __init__(self, device: torch.device, last: nn.Parameter) -> None:
        """last: the parameter whose gradient a backward completes last: the network's first."""
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._complete: Any = None
        last.register_post_accumulate_grad_hook(self._noted)

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _noted(self, _: Tensor) -> None:
        self._complete = self._now()

    def begin(self) -> None:
        """An exchange begins now."""
        self._complete = self._now()

    def end(self) -> None:
        """The exchange that began with `begin`, or with the last gradient, has ended."""
        if self._complete is not None:
            self._spans.append((self._complete, self._now()))
        self._complete = None

    def flush(self) -> float:
        """Seconds of the exchanges since the last flush; waits for the GPU."""
        spans, self._spans = self._spans, []
        if not self._on_gpu:
            return float(sum(end - begin for begin, end in spans))
        if spans:
            spans[-1][1].synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in spans)) / 1e3
