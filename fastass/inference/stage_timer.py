"""Measures how long each stage of a prediction takes, without the first images."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WARM_UP = 3


class StageClock:
    """Wall-clock time per stage; waits for the device at the start and end of each stage.

    The first `WARM_UP` images do not count: they include memory allocation and the choice of
    algorithms.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.images = -WARM_UP

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage `name`."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        spent = time.perf_counter() - start
        if self.images >= 0:
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def next(self) -> None:
        """Count one image."""
        self.images += 1

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def report(self) -> str:
        """Images/s over all stages and of the network alone, milliseconds per image by stage."""
        mean = {name: 1000 * spent / self.images for name, spent in self.seconds.items()}
        total = sum(mean.values())
        split = " · ".join(f"{name} {spent:.1f} ms" for name, spent in mean.items())
        return (
            f"{1000 / total:.2f} images/s ({1000 / mean['network']:.2f} the network alone): "
            f"{split}; mean of {self.images} images after {WARM_UP} of warm-up"
        )
