"""Loss terms and rates, read from the device only every `log_every` steps."""

import math
import time
from typing import Any

import torch

from fastass.adaptation import Terms
from fastass.config import LossConfig
from fastass.errors import TrainingFailure


class Monitor:
    """Collects the terms of every step on the device; `flush` checks and averages them.

    So a step waits for the device at no point, and a non-finite term is still reported with its
    own step.
    """

    def __init__(self, weights: LossConfig) -> None:
        self.weights = weights
        self._steps: list[tuple[int, Terms]] = []
        self.images = 0
        self.seconds = self.data_seconds = 0.0
        self._window = [0, 0.0, 0.0]
        self._mark = time.perf_counter()

    def start_clock(self) -> None:
        """Time counts from here: call it after anything that is not training."""
        self._mark = time.perf_counter()

    def add(self, step: int, terms: Terms, images: int, data_seconds: float) -> None:
        """One step's terms (0-d tensors on the device), images and time waited for data."""
        self._steps.append((step, terms))
        now = time.perf_counter()
        for i, value in enumerate((images, now - self._mark, data_seconds)):
            self._window[i] += value
        self._mark = now

    def flush(self) -> dict[str, Any]:
        """Means since the last flush. TrainingFailure names step and term of a non-finite loss."""
        if not self._steps:
            return {}
        columns = {
            name: [(s, term) for s, terms in self._steps if (term := terms[i]) is not None]
            for i, name in enumerate(Terms._fields)
        }
        means: dict[str, float] = {}
        bad: list[tuple[int, str, float]] = []
        for name, column in columns.items():
            if column:
                values = torch.stack([value.float() for _, value in column]).tolist()
                means[name] = sum(values) / len(values)
                pairs = zip(column, values, strict=True)
                bad += [(s, name, value) for (s, _), value in pairs if not math.isfinite(value)]
        if bad:
            step, name, value = min(bad)
            raise TrainingFailure(f"step {step}: the loss term {name} is {value}")
        images, seconds, data_seconds = self._window
        self.images += int(images)
        self.seconds += seconds
        self.data_seconds += data_seconds
        self._steps.clear()
        self._window = [0, 0.0, 0.0]
        return {
            "terms": means,
            "images_per_second": images / seconds if seconds else 0.0,
            "data_wait": data_seconds / seconds if seconds else 0.0,
        }

    @property
    def images_per_second(self) -> float:
        """Over all training so far, evaluation and saving left out."""
        return self.images / self.seconds if self.seconds else 0.0
