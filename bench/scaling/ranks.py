"""Ranks on this machine's CPU that train together, to check a prediction.

Each rank runs two training steps in turns: one alone, and one with the group. Both are timed while
all ranks do the same. Both therefore contain what ranks lose by sharing cores and memory, and their
difference is the exchange.
"""

import multiprocessing
import os
import socket
import statistics
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from fastass.bench.scaling.timeline import Recorder, Timeline
from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.method.adaptation import method_spec
from fastass.runtime.device import setup_runtime
from fastass.runtime.process_group import World, join
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

SIZES = tuple(2**k for k in (12, 16, 18, 20, 22, 24))  # bytes of the exchanges that are timed
REPEATS = 15
TIMEOUT = 300.0  # seconds for a rank that does not answer


@dataclass(frozen=True)
class Times:
    """What one rank measured."""

    alone: list[Timeline]
    together: list[float]
    exchanges: list[tuple[int, float]]


def measure(ranks: int, config: Config, rounds: int, warmup: int) -> list[Times]:
    """Start `ranks` processes of one thread each and let them step. UserError if one fails."""
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    pipes, workers = [], []
    for rank in range(ranks):
        ours, theirs = context.Pipe(duplex=False)
        task = (theirs, rank, ranks, port, config, rounds, warmup)
        worker = context.Process(target=_serve, args=task)
        worker.start()
        theirs.close()
        pipes.append(ours)
        workers.append(worker)
    try:
        times = [_receive(pipe, rank) for rank, pipe in enumerate(pipes)]
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        for worker in workers:
            worker.join()
    return times


def _receive(pipe: Connection, rank: int) -> Times:
    try:
        answer = pipe.recv()
    except EOFError:
        raise UserError(f"bench: rank {rank} died; is there enough memory for all ranks?") from None
    if isinstance(answer, str):
        raise UserError(f"bench: rank {rank}: {answer}")
    times: Times = answer
    return times


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _serve(
    pipe: Connection, rank: int, ranks: int, port: int, config: Config, rounds: int, warmup: int
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with join("cpu", TIMEOUT) as world:
            pipe.send(_measure(world, config, rounds, warmup))
    except Exception as error:  # whatever it is, the parent reports it in one line
        pipe.send(str(error) or type(error).__name__)


def _measure(world: World, config: Config, rounds: int, warmup: int) -> Times:
    config = config.with_runtime(device="cpu")
    runtime = setup_runtime(config.runtime)
    spec = method_spec(config.method, labelled=max(config.labelled, 1), mix=config.mix)
    batch = random_batch(replace(config, seed=config.seed + world.rank), spec, runtime.device, True)
    batches = [batch] * config.accumulate
    alone = TrainStep(build(config, spec), config, runtime)
    recorder = Recorder(alone.module, runtime.device)
    grouped = replace(config, distributed=replace(config.distributed, world=world.size))
    together = TrainStep(build(config, spec), grouped, runtime, world)
    times = Times([], [], _exchanges(world))
    for i in range(warmup + rounds):
        for turn in (0, 1) if i % 2 else (1, 0):
            world.barrier()
            if turn:
                times.alone.append(recorder.record(lambda: alone.step(batches, adapt=True)))
            else:
                begin = time.perf_counter()
                together.step(batches, adapt=True)
                times.together.append(time.perf_counter() - begin)
    return Times(times.alone[warmup:], times.together[warmup:], times.exchanges)


def _exchanges(world: World) -> list[tuple[int, float]]:
    """(bytes, median seconds) of all-reduces in fp32."""
    medians = []
    for size in SIZES if world.size > 1 else ():
        tensor = torch.ones(size // 4)
        seconds = []
        for _ in range(2 + REPEATS):
            world.barrier()
            begin = time.perf_counter()
            dist.all_reduce(tensor)
            seconds.append(time.perf_counter() - begin)
            tensor.fill_(1.0)
        medians.append((size, statistics.median(seconds[2:])))
    return medians
