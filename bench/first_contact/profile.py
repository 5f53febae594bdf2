"""Stage `profile`: the longest kernels of a step, and the share of the time in which one runs."""

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from fastass.bench.first_contact.engine import configured, free, spec_of
from fastass.bench.first_contact.stages import Context
from fastass.bench.meters import synchronize
from fastass.runtime.device import setup_runtime
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

LONGEST = 40
STEPS = 2


def profile(context: Context) -> None:
    """One line per batch: (name, calls, ms) per step of the longest, and the busy share."""
    for batch in (8, 1):
        config = configured(context, "frozen", batch)
        runtime = setup_runtime(config.runtime)
        engine = TrainStep(build(config, spec_of(config)), config, runtime)
        images = random_batch(config, spec_of(config), runtime.device, channels_last=True)
        for _ in range(3):
            engine.step([images], adapt=True)
        cuda = runtime.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]
        with profiler(activities=activities) as recorded:
            for _ in range(STEPS):
                engine.step([images], adapt=True)
            synchronize(runtime.device)
        on_gpu = torch._C._autograd.DeviceType.CUDA
        events = [e for e in recorded.events() or () if not cuda or e.device_type == on_gpu]
        spans = sorted((e.time_range.start, e.time_range.end) for e in events)
        context.results.write(
            what="profile",
            batch=batch,
            kernels_per_step=len(events) / STEPS,
            busy=busy(spans),
            longest=longest([(e.name, e.time_range.elapsed_us()) for e in events]),
        )
        del engine, images, recorded, events
        free()


def longest(events: list[tuple[str, float]]) -> list[tuple[str, float, float]]:
    """(name, calls per step, ms per step) of events (name, µs), the longest first."""
    calls: dict[str, int] = {}
    total: dict[str, float] = {}
    for name, microseconds in events:
        calls[name] = calls.get(name, 0) + 1
        total[name] = total.get(name, 0.0) + microseconds
    names = sorted(total, key=lambda name: -total[name])[:LONGEST]
    return [(n[:120], calls[n] / STEPS, round(total[n] / 1e3 / STEPS, 4)) for n in names]


def busy(spans: list[tuple[float, float]]) -> float:
    """The share of the time from the first start to the last end in which something runs.

    spans: (start, end), sorted by start.
    """
    if not spans:
        return 0.0
    first, reached, covered = spans[0][0], spans[0][0], 0.0
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / (reached - first) if reached > first else 0.0
