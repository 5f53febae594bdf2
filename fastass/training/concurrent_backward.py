"""Streams side by side: on a CPU their forwards and backwards run on threads of their own.

A step of a small network is hundreds of operators of 20 to 200 µs, too short for several threads to
share well: they wait for each other at the end of each. The terms of the streams share no
activations, so one lane runs the source and another, which has about as much to do, the streams of
the target; each operator has its lane's half of the cores, and lanes wait once a step.

The result does not depend on who is faster. A parameter gets at most one gradient from each lane
(the unlabelled stream's reaches D_g alone, the labelled one's G and D_s), and a sum of two is the
same either way; running statistics are updated afterwards, in the order of the fused step.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from fastass.config.schema import Config
from fastass.kernels.convolution import running_statistics
from fastass.kernels.convolution.running_statistics import Update
from fastass.runtime.process_group import World

Part = TypeVar("Part")
Result = TypeVar("Result")


def unavailable(config: Config, device: torch.device, world: World) -> str | None:
    """Why a step of this configuration can't have lanes; None if it can."""
    if device.type != "cpu":
        return "is for a CPU"
    if torch.get_num_threads() < 2:
        return "needs two threads"
    if world.grouped:
        return "is for one process, ranks exchange the gradients of one backward"
    if config.runtime.compile:
        return "is for eager steps, a compiled one is one graph"
    if config.accumulate > 1:
        return "is for --accumulate 1"  # the order of three gradients would not be defined
    if config.model.checkpoint_activations or config.model.norm == "sync":
        return "knows no checkpointed activations and no norm sync"
    return None


def describe_backward(config: Config, device: torch.device, world: World) -> str:
    """For the first line of a run: which backward it gets."""
    if config.backward != "concurrent":
        return f" · backward {config.backward}"
    reason = unavailable(config, device, world)
    return (
        " · backward concurrent" if reason is None else f" · backward fused (concurrent {reason})"
    )


class ConcurrentBackward:
    """Two threads, the caller's and one more."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "fastass-lane")

    def run(
        self, work: Callable[[Part], Result], first: Sequence[Part], second: Sequence[Part]
    ) -> list[Result]:
        """`work` of every part, each lane's one after the other; → results, the first lane's first.

        Running statistics change as if all had run in that order. What a part raises is raised
        here, when both lanes have ended.
        """
        threads = torch.get_num_threads()

        def lane(parts: Sequence[Part], threads: int) -> tuple[list[Result], list[Update]]:
            torch.set_num_threads(threads)  # of this thread's operators
            with running_statistics.deferred() as updates:
                return [work(part) for part in parts], updates

        other = self._pool.submit(lane, second, threads // 2)
        try:
            results, updates = lane(first, threads - threads // 2)
        finally:
            wait([other])
            torch.set_num_threads(threads)
        more, later = other.result()
        running_statistics.apply([*updates, *later])
        return results + more
