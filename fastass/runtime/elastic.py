"""The members of an elastic run: processes that may end, or come, while the others train on.

torchft's lighthouse, a server, agrees before each step on who takes part in it. Each process has
torchft's manager, which sums over the members and says whether the step counts. A member that is
behind the others has their state loaded by then.

    with Members(address, timeout, state, load) as members:
        members.begin()                # who takes part: members.rank, members.size
        total = members.sum(tensor)    # StepLost if a member is lost
        members.commit()               # StepLost if the step does not count here

What follows a StepLost is `begin` again. No agreement is made here: that is torchft's.
"""

import json
import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, NoReturn, Self, TypeVar

import torch
from torch import Tensor
from torch.distributed import ReduceOp, TCPStore  # type: ignore[attr-defined, unused-ignore]

from fastass.errors import TrainingFailure, UserError
from fastass.pipelines.errors import one_line

T = TypeVar("T")

QUORUM = 600.0  # seconds that a member waits at least for slower ones, which evaluate or save
CONNECT = timedelta(seconds=10)  # to the lighthouse, and of the members of a step to each other
LONGEST = 1 << 20  # bytes of what a member tells the others


class StepLost(Exception):
    """A member was lost: the step does not count here, and is repeated by those who are left."""


def check_torchft() -> None:
    """UserError where torchft is not installed."""
    if find_spec("torchft") is None:
        raise UserError("--elastic: torchft is not installed; pip install torchft")


def check_lighthouse(address: str) -> None:
    """UserError unless something listens at http://HOST:PORT: before a run directory is made."""
    match = re.fullmatch(r"https?://(?:\[([^]]+)\]|([^]:/[]+)):([0-9]{1,5})/?", address)
    if match is None or int(match[3]) > 65535:
        raise UserError(f"--elastic {address}: expected http://HOST:PORT, of torchft's lighthouse")
    try:
        socket.create_connection((match[1] or match[2], int(match[3])), CONNECT.seconds).close()
    except OSError as error:
        raise _no_lighthouse(address, error) from None


class Members:
    """This process among the members of a step.

    lighthouse: its address, http://HOST:PORT. timeout: seconds until a member that does not answer
    is left out. state: what a newcomer needs; `load` gets it there, before the step that it joins.
    step: how many steps this process has taken, for example in a checkpoint. Raises UserError if
    there is no lighthouse.
    """

    def __init__(
        self,
        lighthouse: str,
        timeout: float,
        state: Callable[[], dict[str, Any]],
        load: Callable[[dict[str, Any]], None],
        step: int,
    ) -> None:
        os.environ.setdefault("RUST_LOG", "error")  # its server writes a line per request else
        from torchft import Manager, ProcessGroupGloo

        class Group(ProcessGroupGloo):  # type: ignore[misc]
            """Connects within `CONNECT`; then waits up to `timeout` for each exchange."""

            def configure(group, *arguments: Any, **named: Any) -> None:  # noqa: N805
                self.changed = True
                super().configure(*arguments, **named)
                backend = group.parent._get_backend(torch.device("cpu"))
                backend._set_default_timeout(timedelta(seconds=timeout))

        logging.getLogger("torchft").setLevel(logging.CRITICAL)  # its errors are StepLost here
        # A state that is received lies in memory that torch can't write to; `load` copies it.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        self.changed = False  # the members may be others; the caller resets it
        self.lighthouse, self._patience, self._left = lighthouse, max(timeout, QUORUM), False
        host = socket.gethostname()
        self.name = f"{host}:{os.getpid()}"
        self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        self._group = Group(timeout=CONNECT)
        try:
            self._manager = Manager(
                pg=self._group,
                state_dict=state,
                load_state_dict=load,
                min_replica_size=1,
                use_async_quorum=False,  # the members are known before the batch is cut
                timeout=timedelta(seconds=timeout),
                quorum_timeout=timedelta(seconds=self._patience),
                connect_timeout=CONNECT,
                rank=0,
                world_size=1,
                store_addr=host,
                store_port=self._store.port,
                lighthouse_addr=lighthouse,
                replica_id=f"{time.time():.6f} {self.name} ",  # their order: the oldest is rank 0
            )
        except (RuntimeError, TimeoutError) as error:
            raise _no_lighthouse(lighthouse, error) from None
        self._manager.load_state_dict({"step": step, "batches_committed": 0})

    @property
    def rank(self) -> int:
        """Among the members of this step. 0, the oldest, writes into the run directory."""
        return int(self._manager.participating_rank())

    @property
    def size(self) -> int:
        """Members of this step."""
        return int(self._manager.num_participants())

    @property
    def step(self) -> int:
        """Steps that counted."""
        return int(self._manager.current_step())

    def begin(self) -> None:
        """Agree on the members of the next step; waits for those of the last one that live.

        TrainingFailure if the lighthouse does not answer.
        """
        try:
            self._manager.start_quorum()
        except (RuntimeError, TimeoutError) as error:
            raise TrainingFailure(
                f"the lighthouse {self.lighthouse} gave no members for {self._patience:g} s "
                f"({one_line(error, 200)}); continue from the last checkpoint with the same command"
            ) from None

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the members, in place; exchanged in host memory, by gloo."""
        host = tensor.cpu()
        self._manager.allreduce(host, reduce_op=ReduceOp.SUM).wait()
        if self._manager.errored():
            self.commit()
        return tensor if host is tensor else tensor.copy_(host)

    def gather(self, value: T) -> list[T]:
        """The values of all members, by rank; values that JSON has, in which tuples are lists.

        No pickle, which could run code. (torchft sends the state of a member as one.)
        """
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(data)
        sizes = self.sum(lengths).tolist()
        if not all(0 < size <= LONGEST for size in sizes):
            raise TrainingFailure(f"a member sent {max(sizes)} bytes, not 1 to {LONGEST}")
        rows = torch.zeros(self.size, max(sizes), dtype=torch.uint8)
        rows[self.rank, : len(data)] = data
        table = self.sum(rows)
        try:
            return [
                json.loads(bytes(row[:size].tolist()))
                for row, size in zip(table, sizes, strict=True)
            ]
        except (ValueError, RecursionError) as error:
            raise TrainingFailure(f"a member sent no JSON: {one_line(error, 200)}") from None

    def commit(self) -> None:
        """The step counts for this member, or it is lost."""
        if not self._manager.should_commit():
            self._group.abort()  # so that the others do not wait for this member
            raise StepLost

    def fall_behind(self) -> NoReturn:
        """Lose this step, and have the state of another member loaded by the next `begin`."""
        self._manager.report_error(StepLost())
        try:
            self.commit()
        finally:
            self._manager.load_state_dict({"step": 0, "batches_committed": 0})
        raise StepLost

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.leave()

    def leave(self) -> None:
        """The others go on without this process; leaving again does nothing."""
        if self._left:
            return
        self._left = True
        self._manager.shutdown(wait=False)
        self._group.abort()


def _no_lighthouse(address: str, error: BaseException) -> UserError:
    return UserError(
        f"--elastic {address}: no lighthouse answers there ({one_line(error, 200)}); start one: "
        "torchft_lighthouse --min_replicas 1"
    )
