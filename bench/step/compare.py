"""`fastass bench step`: one training step of fastass beside one of the AdaptSegNet baseline.

Each candidate runs in its own process. They step in turns, so that a disturbance of the machine
meets all of them. Times are medians. The share of the peak is the model FLOPs of a step (counted in
fastass's step, the same for all) divided by its time and by the highest rate measured in this run.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import torch
from tabulate import tabulate

from fastass.bench.meters import peak_rate
from fastass.bench.step.candidate import Candidate, StepTime, engine, reference
from fastass.bench.step.worker import CandidateConfig
from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.method.adaptation import method_spec
from fastass.runtime.device import choose_amp, choose_device
from fastass.runtime.process_group import SINGLE_PROCESS
from fastass.training.concurrent_backward import choose_backward
from fastass.training.optimizers import apex

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """What was measured of one candidate. Times are in seconds per step."""

    name: str
    images_per_second: float
    seconds: float
    wait: float
    forward_backward: float
    optimizer: float
    peak_mib: float
    loaders_mib: float
    """The part of the peak that data-loading processes use."""
    tflops: float
    """Model FLOPs per second, in units of 10¹²."""
    peak_share: float
    """`tflops` as a share of the highest rate measured in the same run."""
    speedup: float
    """The first candidate's time divided by this one's."""
    memory_ratio: float
    """Peak memory divided by the first candidate's."""
    tensors_mib: dict[str, float]


def candidates(config: Config, **options: object) -> list[CandidateConfig]:
    """The AdaptSegNet baseline with its norm and, if it differs, with the given one; fastass."""
    configs = [reference("AdaptSegNet baseline, norm batch", config, "batch", **options)]
    if config.model.norm == "frozen" and config.model.backbone != "vgg16":  # which has no norms
        configs.append(reference("AdaptSegNet baseline, norm frozen", config, "frozen", **options))
    return [*configs, engine("fastass", config, count_flops=True, **options)]


def switches(config: Config) -> Iterator[CandidateConfig]:
    """fastass with one optimisation turned off, or one optional one turned on, at a time."""
    c, o = config, config.optim
    device = choose_device(c.runtime.device)
    cpu, cuda = device.type == "cpu", device.type == "cuda"
    yield engine("kernels reference", c.with_runtime(kernels="reference"))
    yield engine("NCHW instead of channels-last", c, channels_last=False)
    if cpu:
        yield engine("without Winograd's convolutions", c, winograd=False)
        yield engine("allocator default", c.with_runtime(tune_allocator=False))
    if c.model.norm == "frozen":
        yield engine("frozen norm not folded", c, fold_norm=False)
        yield engine(
            "norm batch", replace(c, model=replace(c.model, norm="batch", recompute_sums=False))
        )
    foreach = replace(o, optimizer_backend="foreach")
    yield engine("optimizers foreach, not fused", replace(c, optim=foreach))
    if apex.unavailable() is None and cuda:
        own = replace(o, optimizer_backend="apex")
        yield engine("optimizers of apex", replace(c, optim=own))
    for other in ("fused", "streamed", *(["concurrent"] if cpu else [])):
        if other != choose_backward(c, device, SINGLE_PROCESS).kind:
            yield engine(f"backward {other}", replace(c, backward=other))  # type: ignore[arg-type]
    if c.model.has_cheap_sums:
        sums = not c.model.recompute_sums
        name = "sums computed again" if sums else "sums kept"
        yield engine(name, replace(c, model=replace(c.model, recompute_sums=sums)))
    if c.method != "oracle":
        yield engine("self-training, --mix", replace(c, mix=True))
    checkpointed = replace(c.model, checkpoint_activations=True, recompute_sums=False)
    yield engine("activation checkpointing", replace(c, model=checkpointed))
    if cuda and not c.runtime.compile:
        on = not c.runtime.cuda_graph
        yield engine(f"cuda graph {'on' if on else 'off'}", c.with_runtime(cuda_graph=on))
        if c.runtime.amp:
            timed = c.with_runtime(fused_convolutions="timed")
            yield engine("convolutions fused where faster", timed)
        if c.model.norm == "batch":
            yield engine("batch norm fused", c.with_runtime(fused_batch_norm=True))
    if cuda and not c.runtime.amp:
        for tf32 in (True, False):
            yield engine(f"tf32 {'on' if tf32 else 'off'}", c.with_runtime(tf32=tf32))
    if c.runtime.amp or choose_amp(device)[0] is not None:
        yield engine(
            f"amp {'off' if c.runtime.amp else 'on'}", c.with_runtime(amp=not c.runtime.amp)
        )


def compiled(config: Config) -> Iterator[CandidateConfig]:
    """fastass compiled, in every mode that the device supports."""
    cuda = choose_device(config.runtime.device).type == "cuda"
    modes = ("default", "max-autotune", "reduce-overhead") if cuda else ("default",)
    for mode in modes:
        yield engine(
            f"compile {mode}",
            config.with_runtime(compile=True, compile_mode=mode),
        )


@dataclass(frozen=True)
class Measured:
    """Of one candidate, before it is compared."""

    candidate: CandidateConfig
    times: list[StepTime]
    memory: dict[str, float]
    tensors: dict[str, float]
    flops: float
    """Model FLOPs of a step; 0 where they were not counted."""
    rate: float
    """The highest rate measured beside it, in FLOP/s."""

    @property
    def seconds(self) -> float:
        """The median of a step."""
        return statistics.median(t.total for t in self.times)

    def describe(self) -> str:
        """One line, printed as soon as it is known."""
        images = images_per_step(self.candidate.config) / self.seconds
        return (
            f"{self.candidate.name}: {1e3 * self.seconds:.1f} ms per step, {images:.3g} images/s, "
            f"peak {self.memory['peak']:.0f} MiB"
        )


def measure(
    configs: Sequence[CandidateConfig],
    rounds: int,
    warmup: int,
    progress: Progress,
    *,
    steps: int = 1,
    unmeasured: int = 0,
    line: Progress = print,
) -> list[Row]:
    """Let the candidates step in turns: `warmup` rounds that do not count, then `rounds` that do.

    A turn is `unmeasured` steps, then `steps` steps whose mean counts. On a GPU the candidates run
    one after the other, so that each has the memory alone; each one's result goes to `line` as it
    is known, and one that fails leaves the others. UserError where none is left.
    """
    cuda = choose_device(configs[-1].config.runtime.device).type == "cuda"
    groups = [[config] for config in configs] if cuda else [configs]
    found: list[Measured] = []
    for group in groups:
        try:
            measured = _in_turns(group, rounds, warmup, progress, steps, unmeasured)
        except UserError as error:
            if group is groups[-1] and not found:
                raise
            line(f"failed: {error}")
            continue
        if cuda:
            line(measured[0].describe())
        found += measured
    return _rows(found)


def _in_turns(
    configs: Sequence[CandidateConfig],
    rounds: int,
    warmup: int,
    progress: Progress,
    steps: int,
    unmeasured: int,
) -> list[Measured]:
    """All candidates are alive together, each in a process of its own."""
    with ExitStack() as stack:
        running = []
        for config in configs:
            progress(f"start {config.name}")
            running.append(stack.enter_context(Candidate(config)))
        # The peak rate is measured in this process: a candidate's memory counts.
        device = choose_device(configs[-1].config.runtime.device)
        precision = running[-1].facts["precision"]
        rate = 0.0
        for i in range(warmup + rounds):
            for candidate in running:
                progress(f"round {i + 1} of {warmup + rounds}: {candidate.name}")
                candidate.turn(steps, unmeasured)
            rate = max(rate, peak_rate(device, precision))
        memory, tensors = [], []
        for candidate in running:
            progress(f"memory: {candidate.name}")
            memory.append(candidate.ask("memory"))
            tensors.append(candidate.ask("tensors"))
        flops = [c.ask("flops") if c.config.count_flops else 0.0 for c in running]
        return [
            Measured(c.config, c.times[warmup:], peak, parts, counted, rate)
            for c, peak, parts, counted in zip(running, memory, tensors, flops, strict=True)
        ]


def _rows(found: Sequence[Measured]) -> list[Row]:
    """Times and memory relative to the first; FLOPs are the same for all."""
    first = found[0]
    flops = next((m.flops for m in found if m.flops), 0.0)
    # Alone on a GPU, each precision has a rate of its own: fastass's, the last one's, counts.
    rate = found[-1].rate
    return [
        Row(
            name=m.candidate.name,
            images_per_second=images_per_step(m.candidate.config) / m.seconds,
            seconds=m.seconds,
            wait=statistics.median(t.wait for t in m.times),
            forward_backward=statistics.median(t.forward_backward for t in m.times),
            optimizer=statistics.median(t.optimizer for t in m.times),
            peak_mib=m.memory["peak"],
            loaders_mib=m.memory["loaders"],
            tflops=flops / m.seconds / 1e12,
            peak_share=flops / m.seconds / rate if rate else 0.0,
            speedup=first.seconds / m.seconds,
            memory_ratio=m.memory["peak"] / first.memory["peak"],
            tensors_mib=m.tensors,
        )
        for m in found
    ]


def images_per_step(config: Config) -> int:
    """Images of all streams in one step."""
    spec = method_spec(config.method, labelled=max(config.labelled, 1), mix=config.mix)
    return config.batch * (spec.source + spec.labelled + spec.global_)


COLUMNS: dict[str, Callable[[Row], str]] = {
    "path": lambda r: r.name,
    "images/s": lambda r: f"{r.images_per_second:.3g}",
    "step ms": lambda r: f"{1e3 * r.seconds:.0f}",
    "data wait ms": lambda r: f"{1e3 * r.wait:.1f}",
    "forward+backward ms": lambda r: f"{1e3 * r.forward_backward:.0f}",
    "optimizer ms": lambda r: f"{1e3 * r.optimizer:.1f}",
    "GFLOP/s": lambda r: f"{1e3 * r.tflops:.0f}",
    "% of peak": lambda r: f"{100 * r.peak_share:.0f}",
    "peak MiB": lambda r: f"{r.peak_mib:.0f}",
    "of it loaders": lambda r: f"{r.loaders_mib:.0f}",
    "speed": lambda r: f"{r.speedup:.2f}×",
    "memory": lambda r: f"{r.memory_ratio:.2f}×",
}


def table(rows: Sequence[Row]) -> str:
    """Markdown. `speed` and `memory` are relative to the first row."""
    cells = [[cell(row) for cell in COLUMNS.values()] for row in rows]
    return tabulate(cells, [*COLUMNS], tablefmt="github", disable_numparse=True)


def memory_table(rows: Sequence[Row]) -> str:
    """Markdown: MiB of the tensors behind each peak."""
    names = list(rows[0].tensors_mib)
    cells = [[row.name, *(f"{row.tensors_mib[name]:.0f}" for name in names)] for row in rows]
    return tabulate(cells, ["path, MiB", *names], tablefmt="github", disable_numparse=True)


def heading(config: Config, line: str) -> str:
    """One line: what was run, and on what."""
    (sw, sh), (tw, th) = config.data.source_size, config.data.target_size
    return (
        f"{config.model.backbone}, {config.method}, source {sw}×{sh}, target {tw}×{th}, "
        f"batch {config.batch}, backward {config.backward}, norm {config.model.norm}; "
        f"torch {torch.__version__}; {line}"
    )


def record(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows as JSON."""
    return [asdict(row) for row in rows]
