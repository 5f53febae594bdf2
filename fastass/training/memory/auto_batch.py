"""`--batch auto`: the largest batch that is expected to fit into memory, found before a run.

A throw-away network takes steps of one and of two images per stream. Memory grows linearly with the
batch, so two peaks say what the network itself takes and what each image adds:

    bytes(batch) = fixed + batch · per_image ≤ (1 − RESERVE) · available

On CUDA the peaks are the allocator's, at the run's image sizes. On a CPU they are bytes of tensors
in a step of smaller images, scaled by the area: there the system ends a process that takes too
much, without asking, so nothing may be tried out.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from fastass.config.schema import AUTO, Config, DataConfig
from fastass.errors import UserError
from fastass.method.adaptation import MethodSpec
from fastass.runtime.available_memory import available_memory
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.concurrent_backward import choose_backward
from fastass.training.data import TrainingData
from fastass.training.memory.live_bytes import peak_bytes
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

RESERVE = 0.2  # of the available memory: workspaces of operators, gaps between blocks, other files
PREFETCHED = 4  # batches of images that a loader may hold
BYTES_READ = 3 * 4  # of a pixel, in fp32
MISTAKEN = 1.2  # times the available memory that a given batch may take: an estimate is no limit
GIB = 2**30
SMALL = 256  # pixels: a longer side is halved for the steps on a CPU


@dataclass(frozen=True)
class Need:
    """Bytes that a run takes: `fixed`, and `per_image` for every image per stream."""

    fixed: float
    per_image: float

    def largest(self, available: float) -> int:
        """The largest batch that fits; 0: none."""
        return max(0, math.floor(((1 - RESERVE) * available - self.fixed) / self.per_image))


def with_batch(
    config: Config,
    spec: MethodSpec,
    data: TrainingData,
    runtime: Runtime,
    world: World,
    line: Callable[[str], None],
) -> tuple[Config, TrainingData]:
    """`config` and `data` with the batch in the place of `auto`; the same on every rank.

    line: is called with one line that says what was chosen, and why. UserError where not even one
    image fits, and on a CPU for a given batch that takes far more memory than there is.
    """
    if config.batch != AUTO:
        for problem in world.gather(_too_large(config, spec, runtime, world)):
            if problem is not None:
                raise UserError(problem)
        return config, data
    need, available = measure(config, spec, runtime, world), _available(runtime.device)
    found = world.gather((need.largest(available), need, available))
    rank = min(range(len(found)), key=lambda i: found[i][0])
    batch, need, available = found[rank]
    if batch == 0:
        raise UserError(
            f"--batch auto: one image per stream takes {_gib(need.fixed + need.per_image)}, and of "
            f"{_gib(available)} available {RESERVE:.0%} stay in reserve; lower --source-size and "
            "--target-size, or give --backward streamed or --checkpoint-activations"
        )
    images = max(len(d) for d in (data.source, data.target) if d is not None)
    most = max(1, images // (config.accumulate * world.size))
    reason = (
        f"{'measured' if runtime.device.type == 'cuda' else 'estimated'}: {_gib(need.fixed)} and "
        f"{_gib(need.per_image)} per image of {_gib(available)} available"
    )
    if world.size > 1:
        reason += f" on rank {rank}, which has the least"
    if most < batch:
        batch, reason = most, f"{reason}; no more, for a step to see no image twice"
    chosen = replace(config, batch=batch)
    line(f"--batch auto: {batch} images per stream ({reason}){_changes(chosen)}")
    return chosen, replace(data, batch=batch)


def _too_large(config: Config, spec: MethodSpec, runtime: Runtime, world: World) -> str | None:
    """A message for a batch at which the system would end the process without a word.

    The estimate takes a second, so it is made only where the images alone are a large share.
    """
    if runtime.device.type != "cpu" or available_memory() is None:
        return None
    available = _available(runtime.device)
    if config.batch * BYTES_READ * _pixels(config, spec) < available / 8:
        return None
    need = measure(config, spec, runtime, world)
    taken = need.fixed + config.batch * need.per_image
    if taken < MISTAKEN * available:
        return None
    return (
        f"--batch {config.batch}: estimated to take {_gib(taken)}, and {_gib(available)} are "
        f"available; at most {need.largest(available)} fit, see --batch auto"
    )


def _changes(config: Config) -> str:
    """What the chosen number changes about the result."""
    words = f"; the global batch is {config.global_batch}"
    if not config.optim.scales and config.global_batch != config.optim.base_batch:
        words += (
            f", and the learning rates are those of a global batch of {config.optim.base_batch}: "
            "see --scale-lr"
        )
    if config.model.has_running_statistics:
        words += (
            f"; norm {config.model.norm}: its statistics, and so the result, depend on the batch"
        )
    return words


def measure(
    config: Config, spec: MethodSpec, runtime: Runtime, world: World = SINGLE_PROCESS
) -> Need:
    """What a run takes, from steps of one and of two images per stream."""
    device = runtime.device
    # Two threads would each hold their own streams: no more than `fused`, which holds all at once.
    streamed = choose_backward(config, device, world).kind == "streamed"
    small = replace(
        config,
        batch=1,
        accumulate=1,
        backward="streamed" if streamed else "fused",
        data=config.data if device.type == "cuda" else _smaller(config),
        distributed=replace(config.distributed, world=1),
    ).with_runtime(compile=False, tune_allocator=False)
    scale = _pixels(config, spec) / _pixels(small, spec)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        one, two, network = _peaks(small, spec, replace(runtime, tuned=False))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    per_image = max(two - one, 1) * scale
    prefetched = 0 if device.type == "cuda" else PREFETCHED * BYTES_READ * _pixels(config, spec)
    return Need(max(0.0, one - (two - one)) + network, per_image + prefetched)


def _peaks(small: Config, spec: MethodSpec, runtime: Runtime) -> tuple[int, int, int]:
    """Bytes of a step of one image and of two, and of the network where those leave it out."""
    device = runtime.device
    step = TrainStep(build(small, spec), small, runtime)
    peaks = []
    for images in (1, 2):
        batch = random_batch(replace(small, batch=images), spec, device, channels_last=True)
        try:
            step.step([batch], adapt=True)  # makes the optimizers' state, which stays
            peaks.append(peak_bytes(partial(step.step, [batch], adapt=True), device))
            if step.micro_batches.pieces > 1:  # two images did not fit, and the step went on
                raise torch.OutOfMemoryError
        except torch.OutOfMemoryError:
            if images == 2:  # one fits: say that a second takes all there is
                return peaks[0], peaks[0] + torch.cuda.mem_get_info(device)[1], 0
            raise UserError(
                "--batch auto: one image per stream does not fit into the GPU's memory; lower "
                "--source-size and --target-size, or give --amp, --backward streamed or "
                "--checkpoint-activations"
            ) from None
    kept = [*step.module.parameters(), *step.module.buffers()]
    states = [v for o in step.optimizers.values() for s in o.state.values() for v in s.values()]
    kept += [value for value in states if isinstance(value, torch.Tensor)]
    return peaks[0], peaks[1], 0 if device.type == "cuda" else sum(t.nbytes for t in kept)


def _smaller(config: Config) -> DataConfig:
    def half(size: tuple[int, int]) -> tuple[int, int]:
        width, height = size
        small = min(width, height) >= SMALL
        return (width // 2, height // 2) if small else (width, height)

    data = config.data
    return replace(data, source_size=half(data.source_size), target_size=half(data.target_size))


def _pixels(config: Config, spec: MethodSpec) -> int:
    """Of one image of every stream."""
    source, target = (math.prod(s) for s in (config.data.source_size, config.data.target_size))
    return spec.source * source + (spec.labelled + (spec.global_ or spec.mix)) * target


def _available(device: torch.device) -> float:
    """Bytes that this process may take; ranks on one machine share a CPU's memory equally."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    found = available_memory()
    if found is None:
        raise UserError(
            "--batch auto: this system does not say how much memory is available (there is no "
            "/proc/meminfo); give a number"
        )
    return found / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"
