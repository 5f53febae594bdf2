"""Members of an elastic run without torchft: threads of one process that sum at a barrier."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from fastass.runtime.elastic import StepLost

T = TypeVar("T")


class FakeMembers:
    """One of several threads. `lost` says for each of its sums whether it loses the step."""

    def __init__(self, rank: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._table, self._barrier = rank, size, table, barrier
        self.lost: Callable[[], bool] = lambda: False

    def sum(self, tensor: Tensor) -> Tensor:
        if self.lost():
            raise StepLost
        self._table[self.rank] = tensor.clone()
        self._barrier.wait()
        total = sum(self._table)  # in the order of the ranks: equal on all of them
        self._barrier.wait()
        return tensor.copy_(total)

    def commit(self) -> None:
        pass


def together(size: int, work: Callable[[FakeMembers], T]) -> list[T]:
    """`work` of every member, each in a thread → what they return, by rank."""
    table: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=60)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(FakeMembers(rank, size, table, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads: Sequence[threading.Thread] = [
        threading.Thread(target=run, args=(rank,)) for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


class OneMember:
    """In place of `Members`: a run of one member, which loses the steps of `losing` once each."""

    losing: tuple[int, ...] = ()
    name, rank, size = "here:1", 0, 1

    def __init__(self, lighthouse: str, timeout: float, state: Any, load: Any, step: int) -> None:
        self.step, self.changed, self._lost = step, True, set[int]()

    def begin(self) -> None:
        pass

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, value: T) -> list[T]:
        return [value]

    def commit(self) -> None:
        if self.step in self.losing and self.step not in self._lost:
            self._lost.add(self.step)
            raise StepLost
        self.step += 1

    def leave(self) -> None:
        pass

    def __enter__(self) -> "OneMember":
        return self

    def __exit__(self, *exception: object) -> None:
        pass
