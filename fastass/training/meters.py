"""Loss terms and throughput, read from the device only every `log_every` steps."""

import math
import time
from typing import Any

import torch

from fastass.errors import TrainingFailure
from fastass.method.terms import LossTerms
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.ranks.times import ExchangeClock, RankTimes, gather


class Meters:
    """Collects the terms of every step on the device; `flush` checks and averages them.

    So a step never waits for the device, and a non-finite term is still reported with its step.
    """

    def __init__(
        self, world: World = SINGLE_PROCESS, exchange_clock: ExchangeClock | None = None
    ) -> None:
        """exchange_clock: of the steps, where there are several ranks."""
        self.world, self.exchange_clock = world, exchange_clock
        self.rank_times: RankTimes | None = None  # of the steps of the last flush
        self._steps: list[tuple[int, LossTerms]] = []
        self.images = 0
        self.seconds = self.data_seconds = 0.0
        self._since_flush = [0, 0.0, 0.0]  # images, seconds, seconds of waiting for data
        self._mark = time.perf_counter()

    def start_clock(self) -> None:
        """Start measuring time: call it after anything that is not training."""
        self._mark = time.perf_counter()

    def add(self, step: int, terms: LossTerms, images: int, data_seconds: float) -> None:
        """One step's terms (0-d tensors on the device), its images, the seconds it waited for data.

        Terms and images are this rank's part; the sums over the ranks are reported.
        """
        self._steps.append((step, terms))
        now = time.perf_counter()
        for i, value in enumerate((images * self.world.size, now - self._mark, data_seconds)):
            self._since_flush[i] += value
        self._mark = now

    def flush(self) -> dict[str, Any]:
        """Means since the last flush. TrainingFailure names step and term of a non-finite loss.

        A collective: every rank flushes after the same step and gets the same result.
        """
        if not self._steps:
            return {}
        terms_of_steps = [
            (name, step, term)
            for step, terms in self._steps
            for name, term in terms._asdict().items()
            if term is not None
        ]
        values = self.world.sum(
            torch.stack([term.float() for _, _, term in terms_of_steps])
        ).tolist()
        columns: dict[str, list[float]] = {}
        not_finite: list[tuple[int, str, float]] = []
        for (name, step, _), value in zip(terms_of_steps, values, strict=True):
            columns.setdefault(name, []).append(value)
            if not math.isfinite(value):
                not_finite.append((step, name, value))
        means = {name: sum(column) / len(column) for name, column in columns.items()}
        if not_finite:
            step, name, value = min(not_finite)
            raise TrainingFailure(f"step {step}: the loss term {name} is {value}")
        images, seconds, data_seconds = self._since_flush
        if self.exchange_clock is not None:
            exchange = self.exchange_clock.flush()
            self.rank_times = gather(self.world, len(self._steps), seconds, data_seconds, exchange)
        self.images += int(images)
        self.seconds += seconds
        self.data_seconds += data_seconds
        self._steps.clear()
        self._since_flush = [0, 0.0, 0.0]
        return {
            "terms": means,
            "images_per_second": images / seconds if seconds else 0.0,
            "data_wait": data_seconds / seconds if seconds else 0.0,
        }

    @property
    def images_per_second(self) -> float:
        """Over all training so far, without evaluation and saving."""
        return self.images / self.seconds if self.seconds else 0.0
