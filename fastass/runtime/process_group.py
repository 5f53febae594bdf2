"""The processes that train together, one per device, as torchrun starts them.

torchrun gives each process its rank, the world size and the address of the others in RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Without them a process trains alone, with no
process group.

    with join(device, timeout) as world:
        if world.main: …                              # only rank 0 writes and reports
        value = world.broadcast_from_main(lambda: …)  # rank 0 computes it, all ranks get it
        total = world.sum(counts)                     # over the ranks

An error on one rank ends all of them with one line. The rank that fails first writes the reason to
the store. The next exchange of the others breaks off or times out; they find the reason in the
store and end without a message.
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
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined, unused-ignore]
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.rendezvous import rendezvous

from fastass.errors import USER_ERRORS, TrainingFailure, UserError
from fastass.runtime.signals import Interrupted

T = TypeVar("T")

# Parts of the messages of gloo's RuntimeErrors: another rank is gone, or it does not answer.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "gloo",
    "ncclRemote",
)
_LATE = ("Timed out", "timed out", "timeout")


class RankFailure(TrainingFailure):
    """Another rank has ended, is unreachable or hangs."""


@dataclass(frozen=True)
class World:
    """This process among the ranks, and the exchanges between them.

    rank: 0 … size−1. local_rank: its number on its machine. grouped: torchrun started it, so there
    is a process group, even for a single process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    grouped: bool = False

    @property
    def main(self) -> bool:
        """Whether this rank writes and reports."""
        return self.rank == 0

    @property
    def ddp(self) -> bool:
        """Whether DistributedDataParallel exchanges the gradients."""
        return self.grouped

    def describe(self) -> str:
        """For the heading of a run; empty where a process trains alone."""
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
            parts = torch.split(flat, [t.numel() for t in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def barrier(self) -> None:
        """Wait for every rank."""
        self.sum(torch.zeros(1))

    def main_first(self, function: Callable[[], T]) -> T:
        """`function()` on every rank, first on rank 0, so that the others find what it made."""
        if not self.main:
            self.barrier()
            return function()
        value = function()
        self.barrier()
        return value

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank."""
        values: list[Any] = [value]
        if self.grouped:
            values *= self.size
            dist.all_gather_object(values, value)
        return values

    def broadcast_from_main(self, function: Callable[[], T]) -> T:
        """The value of `function()` on rank 0, for all ranks; the others wait for it."""
        if not self.grouped:
            return function()
        box: list[Any] = [function() if self.main else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        value: T = box[0]
        return value


SINGLE_PROCESS = World()


class AsyncMax:
    """The maximum of one number per rank, such as a received signal, known to all ranks together.

    The exchange runs during the step: `ask` before it, `answer` after it. It is in CPU memory, so
    it waits for no GPU, and it is where a rank that hangs is noticed.
    """

    def __init__(self, world: World, value: Callable[[], int]) -> None:
        """value: this rank's number, 0 or more; called by every `ask`."""
        self._world, self._value = world, value
        self._highest = torch.zeros((), dtype=torch.int32)
        self._work: dist.Work | None = None

    def ask(self) -> None:
        """Send this rank's number."""
        self._highest.fill_(self._value())
        if self._world.grouped:
            self._work = dist.all_reduce(self._highest, dist.ReduceOp.MAX, async_op=True)

    def answer(self) -> int:
        """The maximum over the ranks; an error that `join` explains if one does not answer."""
        if self._work is None:
            return self._value()
        self._work.wait()
        self._work = None
        return int(self._highest)


@contextlib.contextmanager
def join(device_type: str, timeout: float) -> Iterator[World]:
    """The world of this process; leaves the process group at the end.

    timeout: seconds after which an exchange that another rank does not join ends the run.
    Raises UserError when torchrun's variables are incomplete or the ranks can't connect,
    RankFailure when another rank is lost, and SystemExit where another rank reports the reason.
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
    store = _connect(device_type, timedelta(seconds=timeout))
    try:
        yield world
        _leave(world)
    except Interrupted as error:  # on all ranks after the same step
        _leave(world)
        if world.main:
            raise
        raise SystemExit(error.code) from None
    except Exception as error:
        _end(world, store, timeout, error)
        raise


def _connect(device_type: str, timeout: timedelta) -> Store:
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=timeout)))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=PrefixStore(f"group {_attempt()}", store),
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
        if device_type == "cuda":
            _let_gloo_notice_first(timeout)
    except (dist.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the ranks did not connect at {where} within {timeout.total_seconds():g} s: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return PrefixStore(f"failure {_attempt()}", store)


def _let_gloo_notice_first(timeout: timedelta) -> None:
    """NCCL waits twice as long for a rank that hangs as gloo, whose error becomes our line.

    NCCL's own time-out aborts the process from a thread of its own, without a line of ours.
    """
    group = dist.group.WORLD
    assert group is not None
    group._get_backend(torch.device("cuda"))._set_default_timeout(2 * timeout)


def _leave(world: World) -> None:
    """Leave the process group once every rank is here and gloo's threads hold no tensor.

    A thread of gloo that frees a tensor takes the GIL. While gloo's threads are joined, which holds
    the GIL, it would wait for ever; when the interpreter has ended, it would abort the process.
    """
    last = world.sum(torch.zeros(1))
    for _ in range(1000):
        if last._use_count() == 1:  # type: ignore[attr-defined]
            break
        time.sleep(0.001)
    dist.destroy_process_group()


def _attempt() -> str:
    """The number of restarts, where the store outlives a restart and so needs other keys.

    That is so for a single agent with a static rendezvous. Several agents get a new store each
    time, and may count their restarts differently.
    """
    alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"


def _end(world: World, store: Store, timeout: float, error: Exception) -> None:
    """Write to the store why this rank ends, or end silently if another rank was first."""
    text = str(error)
    at = "".join(f" at {note}" for note in getattr(error, "__notes__", [])[:1])
    expected = isinstance(error, (*USER_ERRORS, TrainingFailure))
    if isinstance(error, RuntimeError) and any(sign in text for sign in (*_LOST, *_LATE)):
        late = any(sign in text for sign in _LATE)
        error = RankFailure(_why_lost(world, store, timeout if late else None, at))
    elif expected and world.size > 1:
        error = type(error)(f"rank {world.rank}: {text}")
    elif not expected:  # a traceback follows
        _is_first_failure(store, text)
        return
    if _is_first_failure(store, str(error)):
        _fail(error)
    raise SystemExit(1 if isinstance(error, TrainingFailure) else 2) from None


@record
def _fail(error: Exception) -> NoReturn:
    """Raise where torchrun records it, so that its report of the rank ends with our line."""
    raise error from None


def _is_first_failure(store: Store, text: str) -> bool:
    """Record a failure → whether no other rank has failed before; also if the store is gone."""
    try:
        recorded: bytes = store.compare_set("why", "", text)
        return recorded == text.encode()
    except (dist.DistError, RuntimeError):
        return True


def _why_lost(world: World, store: Store, timeout: float | None, at: str) -> str:
    """Which rank is missing: every rank that is left signs in, and this one looks who did not.

    at: where the run stood, such as " at step 7".
    """
    missing: list[int] = []
    with contextlib.suppress(dist.DistError, RuntimeError):
        store.set(f"present {world.rank}", "")
        time.sleep(1.0)
        missing = [r for r in range(world.size) if not store.check([f"present {r}"])]
    named = ", ".join(f"rank {r}" for r in missing[:8]) or "another rank"
    if timeout is None:
        return f"{named} has ended{at}; continue from the last checkpoint with --resume"
    return (
        f"{named} did not answer for {timeout:g} s{at} (--distributed-timeout): it hangs or is "
        "unreachable; continue from the last checkpoint with --resume"
    )
