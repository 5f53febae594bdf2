"""Runs a function on several ranks in processes of their own, with gloo, for tests."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

from fastass.runtime.process_group import World, join


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_ranks(
    size: int, function: Callable[..., Any], *args: Any, timeout: float = 60
) -> list[Any]:
    """`function(world, *args)` on `size` ranks → what each of them returned."""
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    port = free_port()
    workers = [
        context.Process(target=_rank, args=(rank, size, port, timeout, results, function, args))
        for rank in range(size)
    ]
    for worker in workers:
        worker.start()
    try:
        found = dict(results.get() for _ in range(size))
    finally:
        for worker in workers:
            worker.join(60)
            worker.kill()
    for rank, (error, _) in sorted(found.items()):
        assert error is None, f"rank {rank}: {error}"
    assert [worker.exitcode for worker in workers] == [0] * size
    return [pickle.loads(found[rank][1]) for rank in range(size)]


def _rank(
    rank: int,
    size: int,
    port: int,
    timeout: float,
    results: Any,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        with join("cpu", timeout) as world:
            assert isinstance(world, World)
            value = function(world, *args)
        results.put((rank, (None, pickle.dumps(value))))  # no tensors: their memory ends with us
    except BaseException:
        results.put((rank, (traceback.format_exc(), None)))
