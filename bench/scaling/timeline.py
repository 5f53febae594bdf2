"""When the gradients of a step are complete, and how much of their exchange the backward hides.

Gradients are exchanged in buckets, as DistributedDataParallel does: in the order in which they
become complete, a small one first, one exchange at a time, while the backward goes on.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastass.bench.meters import synchronize

MIB = 2**20
FIRST_BUCKET = MIB  # of torch's DistributedDataParallel, so that the exchange begins early
BUCKET = 25 * MIB  # its default for the others
PIECES = 256  # of gradients whose size and time are not measured


@dataclass(frozen=True)
class Gradient:
    """Bytes that are complete `ready` seconds after the step began."""

    size: float
    ready: float


@dataclass(frozen=True)
class Timeline:
    """One step without any exchange."""

    seconds: float
    gradients: tuple[Gradient, ...]  # in the order in which they become complete

    @property
    def size(self) -> float:
        """Bytes of all gradients."""
        return sum(g.size for g in self.gradients)

    @property
    def backward_share(self) -> float:
        """The share of the step between the first complete gradient and the last."""
        return (self.gradients[-1].ready - self.gradients[0].ready) / self.seconds


def uniform(seconds: float, size: float, share: float) -> Timeline:
    """Gradients that become complete evenly over the last `share` of the step."""
    pieces = [
        Gradient(size / PIECES, seconds * (1 - share * (1 - i / PIECES)))
        for i in range(1, PIECES + 1)
    ]
    return Timeline(seconds, tuple(pieces))


def buckets(timeline: Timeline, limit: float, scale: float = 1.0) -> list[Gradient]:
    """The gradients in buckets, each exchanged at once when it reaches `limit` bytes.

    scale: factor on the bytes that are sent, not on the limit; 0.5 if compressed to bf16.
    """
    sent: list[Gradient] = []
    size = 0.0
    for gradient in timeline.gradients:
        size += gradient.size
        if size >= (limit if sent else min(FIRST_BUCKET, limit)):
            sent.append(Gradient(scale * size, gradient.ready))
            size = 0.0
    if size:
        sent.append(Gradient(scale * size, timeline.gradients[-1].ready))
    return sent


def exposed(parts: Sequence[Gradient], exchange: Callable[[float], float]) -> float:
    """Seconds that the last exchange ends after the backward."""
    end = 0.0
    for part in parts:
        end = max(end, part.ready) + exchange(part.size)
    return end - parts[-1].ready


def typical(timelines: Sequence[Timeline]) -> Timeline:
    """The one of median length (of two, the shorter)."""
    middle = statistics.median_low(t.seconds for t in timelines)
    return next(t for t in timelines if t.seconds == middle)


class Recorder:
    """Notes when each gradient of a module is complete; hooks stay on its parameters."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._device = device
        self._at: dict[int, Any] = {}  # seconds, or an event of the GPU's queue
        parameters: Iterable[Tensor] = [p for p in module.parameters() if p.requires_grad]
        self._sizes = [p.nbytes for p in parameters]
        for i, p in enumerate(parameters):
            p.register_post_accumulate_grad_hook(partial(self._note, i))

    def record(self, step: Callable[[], object]) -> Timeline:
        """Run `step`. Of several backward passes the last one's times count."""
        self._at.clear()
        synchronize(self._device)
        begin, mark = time.perf_counter(), self._now()
        step()
        synchronize(self._device)
        seconds = time.perf_counter() - begin
        gradients = [Gradient(self._sizes[i], self._since(mark, at)) for i, at in self._at.items()]
        return Timeline(seconds, tuple(sorted(gradients, key=lambda g: g.ready)))

    def _note(self, index: int, parameter: Tensor) -> None:
        self._at[index] = self._now()

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _since(self, mark: Any, at: Any) -> float:
        if self._device.type != "cuda":
            return float(at - mark)
        return float(mark.elapsed_time(at)) / 1e3
