"""Source and target side by side: on a CPU their forwards and backwards run on two threads.

A step of a small network is hundreds of operators of 20 to 200 µs, too short for several threads to
share well: they wait for each other at the end of each. The terms of the streams share no
activations, so one thread runs the source and another, which has about as much to do, the streams
of the target. Each operator uses its thread's half of the cores, and the two wait once per step.

The result does not depend on which thread is faster. A parameter gets at most one gradient from
each (the unlabelled stream's reaches D_g alone, the labelled one's G and D_s), and a sum of two is
the same either way. The step updates running statistics afterwards, in the order of the fused one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from fastass.config.schema import Config
from fastass.runtime.process_group import World

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Backward:
    """How a step runs its backward passes, and why not as configured where that is so."""

    kind: Literal["fused", "streamed", "concurrent"]
    reason: str = ""

    def describe(self) -> str:
        """For the heading of a run."""
        note = f" ({self.reason})" if self.reason else ""
        return f"backward {self.kind}{note}"


def choose_backward(config: Config, device: torch.device, world: World) -> Backward:
    """The backward of `config` on this device; `concurrent` becomes `fused` where it can't be.

    `auto` is `streamed` where that saves memory and costs nothing: on one GPU, eagerly, with norms
    that are frozen or fused, so that all streams share the rounded weights. With other norms
    autocast would round them once per stream.
    """
    if config.backward == "auto":
        one_gpu = device.type == "cuda" and not world.grouped and not config.runtime.compile
        fused = config.model.norm == "batch" and config.runtime.fused_batch_norm
        if one_gpu and (fused or config.model.norm == "frozen"):
            return Backward("streamed", "on one GPU it saves memory")
        return Backward("fused")
    if config.backward != "concurrent":
        return Backward(config.backward)
    reason = _why_not_concurrent(config, device, world)
    return Backward("concurrent") if reason is None else Backward("fused", f"concurrent: {reason}")


def _why_not_concurrent(config: Config, device: torch.device, world: World) -> str | None:
    if device.type != "cpu":
        return "needs a CPU"
    if torch.get_num_threads() < 2:
        return "needs at least two threads"
    if world.grouped:
        return "not available with several ranks, because DDP needs a single backward pass"
    if config.runtime.compile:
        return "not available with --compile, which makes one graph of all streams"
    if config.accumulate > 1:
        # Sums of three gradients would depend on their order.
        return "not available with --accumulate above 1"
    if config.loss.push != "source":
        # I_tu then has gradients of G, as I_tl has: sums of three.
        return f"not available with --loss-push {config.loss.push}"
    if config.model.checkpoint_activations or config.model.norm == "sync":
        return "does not support activation checkpointing or --model-norm sync"
    return None


class ConcurrentBackward:
    """Two threads, the caller's and one more."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "fastass-backward")

    def run(
        self, work: Callable[[Part], Result], first: Sequence[Part], second: Sequence[Part]
    ) -> list[Result]:
        """`work` on every part, `first` on this thread and `second` on the other → all results.

        An error that a part raises is raised here, once both threads have ended their work.
        """
        threads = torch.get_num_threads()

        def run_parts(parts: Sequence[Part], threads: int) -> list[Result]:
            torch.set_num_threads(threads)  # of this thread's operators
            return [work(part) for part in parts]

        other = self._pool.submit(run_parts, second, threads // 2)
        try:
            results = run_parts(first, threads - threads // 2)
        finally:
            wait([other])
            torch.set_num_threads(threads)
        return results + other.result()
