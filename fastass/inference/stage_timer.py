"""How long each stage of predicting an image takes, the first images left out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WARM_UP = 3


class StageClock:
    """Wall-clock time by stage; the device is waited for at both ends of each.

    The first `WARM_UP` images are not counted: they pay for allocations and for choosing
    algorithms.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.images = -WARM_UP

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what runs inside under `name`."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        spent = time.perf_counter() - start
        if self.images >= 0:
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def next(self) -> None:
        """An image is done."""
        self.images += 1

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def report(self) -> str:
        """Images/s over all stages and for the network alone, milliseconds an image by stage."""
        mean = {name: 1000 * spent / self.images for name, spent in self.seconds.items()}
        total = sum(mean.values())
        split = " · ".join(f"{name} {spent:.1f} ms" for name, spent in mean.items())
        return (
            f"{1000 / total:.2f} images/s ({1000 / mean['network']:.2f} the network alone): "
            f"{split}; mean of {self.images} images after {WARM_UP} of warm-up"
        )
