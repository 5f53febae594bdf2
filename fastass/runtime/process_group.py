"""The processes that train together, one a device, as torchrun starts them.

torchrun tells each process its rank, the world size and where to meet (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Without them a process trains alone, with no process group.

    with join(device, timeout) as world:
        if world.main: …                        # rank 0 alone writes and reports
        value = world.broadcast_from_main(lambda: …)         # rank 0 computes it, all get it
        total = world.sum(counts)               # over the ranks

What goes wrong on one rank ends all of them with one line: the rank that fails first says why in
the store, the others, whose next exchange breaks off or times out, find it there and end quietly.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from fastass.errors import USER_ERRORS, TrainingFailure, UserError
from fastass.runtime.signals import Interrupted

T = TypeVar("T")

# How gloo's plain RuntimeErrors begin or what they hold: a peer is gone, or it does not answer.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "gloo",
    "ncclRemote",
)
_LATE = ("Timed out", "timed out", "timeout")


class RankFailure(TrainingFailure):
    """Another rank ended, was cut off or hangs."""


@dataclass(frozen=True)
class World:
    """Rank 0 … size−1 of this process, its number on its machine, and what the ranks exchange.

    `grouped`: torchrun started it, so there is a process group, even one of a single process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    grouped: bool = False

    @property
    def main(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    def describe(self) -> str:
        """For the line that opens a run; empty where a process trains alone."""
        return f" · {self.size} ranks ({dist.get_backend()})" if self.grouped else ""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.grouped:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensors: list[Tensor]) -> None:
        """Replace tensors of one dtype by their means over the ranks, in one exchange."""
        if self.size > 1 and tensors:
            flat = self.sum(torch.cat([t.flatten() for t in tensors])).div_(self.size)
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def barrier(self) -> None:
        """Wait for every rank."""
        self.sum(torch.zeros(1))

    def main_first(self, function: Callable[[], T]) -> T:
        """`function()` on every rank, rank 0 before the others: what it makes, they find."""
        if not self.main:
            self.barrier()
            return function()
        value = function()
        self.barrier()
        return value

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """`function()` of rank 0, on all ranks; the others wait for it."""
        if not self.grouped:
            return function()
        box: list[Any] = [function() if self.main else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


SINGLE_PROCESS = World()


class AsyncMax:
    """The highest wish of any rank, such as a signal's number, known to all after the same step.

    It travels while the step runs: `ask` before it, `answer` after it. In CPU memory, so no GPU
    queue is waited for, and a rank that hangs is noticed here.
    """

    def __init__(self, world: World, wish: Callable[[], int]) -> None:
        self._world, self._wish = world, wish
        self._highest = torch.zeros((), dtype=torch.int32)
        self._work: dist.Work | None = None

    def ask(self) -> None:
        """Send this rank's wish; 0 is none."""
        self._highest.fill_(self._wish())
        if self._world.grouped:
            self._work = dist.all_reduce(self._highest, dist.ReduceOp.MAX, async_op=True)

    def answer(self) -> int:
        """What was asked for; raises what `join` explains if a rank does not answer."""
        if self._work is None:
            return self._wish()
        self._work.wait()
        self._work = None
        return int(self._highest)


@contextlib.contextmanager
def join(device_type: str, timeout: float) -> Iterator[World]:
    """The world of this process; leaves the process group at the end.

    timeout: seconds after which an exchange that another rank does not join ends the run.
    Raises UserError when torchrun's variables are incomplete or the ranks do not meet,
    RankFailure when another rank is lost, and SystemExit where another rank has said why.
    """
    if "RANK" not in os.environ:
        yield World()
        return
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        world = World(rank, size, int(os.environ.get("LOCAL_RANK", "0")), grouped=True)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"RANK is set, but {error}; start several processes with torchrun"
        ) from None
    store = _meet(device_type, timedelta(seconds=timeout))
    try:
        yield world
        _leave(world)
    except Interrupted as error:  # all ranks have agreed on it
        _leave(world)
        if world.main:
            raise
        raise SystemExit(error.code) from None
    except Exception as error:
        _end(world, store, timeout, error)
        raise


def _meet(device_type: str, timeout: timedelta) -> dist.Store:
    try:
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=timeout)))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=dist.PrefixStore(f"group {_attempt()}", store),
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the ranks did not meet at {where} within {timeout.total_seconds():g} s: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return dist.PrefixStore(f"failure {_attempt()}", store)


def _leave(world: World) -> None:
    """Leave the process group once every rank is here and gloo's threads hold no tensor.

    A thread of gloo that lets go of a tensor takes the GIL. While its threads are joined, which
    holds the GIL, it would wait for ever; at the end of the process, when there is none to be had,
    it aborts the process.
    """
    last = world.sum(torch.zeros(1))
    for _ in range(1000):
        if last._use_count() == 1:  # type: ignore[attr-defined]
            break
        time.sleep(0.001)
    dist.destroy_process_group()


def _attempt() -> str:
    """Tells the starts of a group apart, where its store outlives a restart.

    That is so for a single agent with a static rendezvous; several agents get a new store each
    time, and may count their restarts differently.
    """
    alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"


def _end(world: World, store: dist.Store, timeout: float, error: Exception) -> None:
    """Tell the others why this rank ends, or end quietly where one of them has told already."""
    text = str(error)
    told = isinstance(error, (*USER_ERRORS, TrainingFailure))
    if isinstance(error, RuntimeError) and any(sign in text for sign in (*_LOST, *_LATE)):
        late = any(sign in text for sign in _LATE)
        error = RankFailure(_why_lost(world, store, timeout if late else None))
    elif told and world.size > 1:
        error = type(error)(f"rank {world.rank}: {text}")
    elif not told:  # a traceback follows
        _first(store, text)
        return
    if _first(store, str(error)):
        _fail(error)
    raise SystemExit(1 if isinstance(error, TrainingFailure) else 2) from None


@record
def _fail(error: Exception) -> NoReturn:
    """Raise it where torchrun sees it, whose own report of the rank then ends with our line."""
    raise error from None


def _first(store: dist.Store, text: str) -> bool:
    """Whether no other rank has failed before. A store that is gone has told nobody."""
    try:
        return store.compare_set("why", "", text) == text.encode()
    except (dist.DistError, RuntimeError):
        return True


def _why_lost(world: World, store: dist.Store, timeout: float | None) -> str:
    """Who is missing: every rank that notices signs in; the one that speaks looks who did not."""
    missing: list[int] = []
    with contextlib.suppress(dist.DistError, RuntimeError):
        store.set(f"here {world.rank}", "")
        time.sleep(1.0)
        missing = [r for r in range(world.size) if not store.check([f"here {r}"])]
    named = ", ".join(f"rank {r}" for r in missing[:8]) or "another rank"
    if timeout is None:
        return f"{named} has ended; the run goes on from its last checkpoint with --resume"
    return (
        f"{named} did not answer for {timeout:g} s (--distributed-timeout): it hangs or was cut "
        "off; the run goes on from its last checkpoint with --resume"
    )
