"""Runs a function on several ranks in processes of their own, with gloo, for tests; and a batch
whose images differ in what is valid in them, for tests that cut it."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.process_group import World, join

CLASSES, SIZE = 5, (48, 64)  # of `uneven_batch`


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


def uneven_batch(seed: int, images: int) -> StepBatch:
    """Random images; the labels of each have another share of ignored pixels and classes."""
    g = torch.Generator().manual_seed(seed)

    def stream(labelled: bool) -> Batch:
        x = torch.randn(images, 3, *SIZE, generator=g, dtype=torch.float64)
        if not labelled:
            return Batch(x, None)
        y = torch.randint(0, CLASSES, (images, *SIZE), generator=g, dtype=torch.uint8)
        for i in range(images):
            y[i, : SIZE[0] * i // images] = 255
            y[i][y[i] <= i] = 255 if i < CLASSES - 1 else 0
        return Batch(x, y)

    return StepBatch(stream(True), stream(True), stream(False))
