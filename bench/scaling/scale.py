"""`fastass bench scale`: predicts a step on many GPUs from a step that was measured on one.

    step of p GPUs = step alone + what of the gradients' exchange its backward does not hide
                                + the exchange of eight counts before it
    efficiency     = step alone / step of p GPUs

The exchange is modelled (`bench/scaling/allreduce_model.py`). The step, and the times at which its
gradients are complete, are measured (`bench/scaling/timeline.py`). The model is checked against CPU
ranks on this machine.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from tabulate import tabulate

from fastass.bench.scaling import ranks
from fastass.bench.scaling.allreduce_model import ALGORITHMS, Cluster, Link, fit, ring
from fastass.bench.scaling.timeline import (
    BUCKET,
    MIB,
    Gradient,
    Recorder,
    Timeline,
    buckets,
    exposed,
    typical,
)
from fastass.config.schema import Config
from fastass.method.adaptation import method_spec
from fastass.runtime.device import setup_runtime
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

COUNTS = 64  # bytes of the exchange before a step: `fastass.method.item_weights`


@dataclass(frozen=True)
class Prediction:
    """A step of `gpus` GPUs, each with the batch of the one that was measured."""

    gpus: int
    nodes: int
    algorithm: str
    exchange: float
    """Seconds of all exchanges, hidden or not."""
    exposed: float
    """Seconds by which the step gets longer."""
    step: float
    efficiency: float


@dataclass(frozen=True)
class Check:
    """Measured ranks beside their prediction; seconds."""

    ranks: int
    alpha: float
    beta: float
    fit_error: float
    """Median relative error of the ring's formula over the exchanges timed."""
    alone: float
    """A step without exchange while all ranks do the same."""
    measured: float
    hidden: float
    """Predicted, the exchange overlapped with the backward."""
    added: float
    """Predicted, the exchange added to the step."""
    overlaps: bool
    """Whether there are cores for the exchange beside those of the ranks: else it is added."""

    @property
    def predicted(self) -> float:
        return self.hidden if self.overlaps else self.added


def measure_step(config: Config, rounds: int, warmup: int) -> Timeline:
    """The engine's step on this device, on random images; with one backward, as ranks have."""
    if config.backward == "concurrent":
        config = replace(config, backward="fused")
    runtime = setup_runtime(config.runtime)
    spec = method_spec(config.method, labelled=max(config.labelled, 1), mix=config.mix)
    engine = TrainStep(build(config, spec), config, runtime)
    recorder = Recorder(engine.module, runtime.device)
    batches = [random_batch(config, spec, runtime.device, True)] * config.accumulate
    steps = [
        recorder.record(lambda: engine.step(batches, adapt=True)) for _ in range(warmup + rounds)
    ]
    return typical(steps[warmup:])


def predict(
    timeline: Timeline, cluster: Cluster, gpus: Sequence[int], *, limit: float, compress: bool
) -> list[Prediction]:
    """Both algorithms for every number of GPUs.

    limit: bytes of a bucket. compress: the gradients travel as bf16.
    """
    parts = buckets(timeline, limit, 0.5 if compress else 1.0)
    predictions = []
    for p in gpus:
        for name, algorithm in ALGORITHMS.items():
            exchange = partial(cluster.all_reduce, gpus=p, algorithm=algorithm)
            longer = _longer(parts, exchange, overlap=True)
            step = timeline.seconds + longer
            predictions.append(
                Prediction(
                    gpus=p,
                    nodes=cluster.nodes(p),
                    algorithm=name,
                    exchange=_longer(parts, exchange, overlap=False),
                    exposed=longer,
                    step=step,
                    efficiency=timeline.seconds / step,
                )
            )
    return predictions


def _longer(
    parts: Sequence[Gradient], exchange: Callable[[float], float], *, overlap: bool
) -> float:
    gradients = exposed(parts, exchange) if overlap else sum(exchange(part.size) for part in parts)
    return exchange(COUNTS) + gradients


def check(config: Config, size: int, rounds: int, warmup: int) -> Check:
    """Let `size` CPU ranks train, and predict their step from the exchanges timed alone."""
    times = ranks.measure(size, config, rounds, warmup)
    # A group is as slow as its slowest rank, in each round.
    slowest = [
        max(steps, key=lambda t: t.seconds)
        for steps in zip(*(one.alone for one in times), strict=True)
    ]
    together = [max(steps) for steps in zip(*(one.together for one in times), strict=True)]
    link, error = Link(0.0, 0.0), 0.0
    if size > 1:
        samples = [
            (exchange[0][0], max(seconds for _, seconds in exchange))
            for exchange in zip(*(one.exchanges for one in times), strict=True)
        ]
        link, error = fit(samples, size)
    alone = statistics.median(t.seconds for t in slowest)
    parts = buckets(typical(slowest), BUCKET, 0.5 if config.distributed.compress else 1.0)
    all_reduce = partial(ring, ranks=size, link=link)
    return Check(
        ranks=size,
        alpha=link.alpha,
        beta=link.beta,
        fit_error=error,
        alone=alone,
        measured=statistics.median(together),
        hidden=alone + _longer(parts, all_reduce, overlap=True),
        added=alone + _longer(parts, all_reduce, overlap=False),
        overlaps=2 * size <= len(os.sched_getaffinity(0)),
    )


def prediction_table(rows: Sequence[Prediction]) -> str:
    """Markdown, a row for each number of GPUs."""
    names = list(ALGORITHMS)
    columns = [
        f"{name}: {what}" for name in names for what in ("exchange ms", "exposed ms", "eff.")
    ]
    lines = []
    for gpus in dict.fromkeys(row.gpus for row in rows):
        mine = {row.algorithm: row for row in rows if row.gpus == gpus}
        cells = [str(gpus), str(mine[names[0]].nodes)]
        for name in names:
            row = mine[name]
            cells += [f"{1e3 * row.exchange:.2f}", f"{1e3 * row.exposed:.2f}"]
            cells.append(f"{100 * row.efficiency:.1f} %")
        best = max(row.efficiency for row in mine.values())
        lines.append([*cells, f"{gpus * best:.0f}×"])
    heads = ["GPUs", "nodes", *columns, "speed-up"]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def check_table(rows: Sequence[Check]) -> str:
    """Markdown; `difference` is that of predicted from measured."""
    heads = ["ranks", "α µs", "GB/s", "fit error", "step alone ms", "measured ms", "predicted ms"]
    heads += ["if hidden", "if added", "difference"]
    lines = []
    for row in rows:
        link = ["–"] * 3
        if row.ranks > 1:
            rate = 1e-9 / row.beta if row.beta else float("inf")
            link = [f"{1e6 * row.alpha:.0f}", f"{rate:.2f}", f"{100 * row.fit_error:.0f} %"]
        times = (row.alone, row.measured, row.predicted, row.hidden, row.added)
        cells = [str(row.ranks), *link, *(f"{1e3 * t:.1f}" for t in times)]
        cells.append(f"{100 * (row.predicted / row.measured - 1):+.1f} %")
        lines.append(cells)
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def overhead(rows: Sequence[Check]) -> float | None:
    """The share that a process group of one rank adds to a step; None where it was not run."""
    return next((row.measured / row.alone - 1 for row in rows if row.ranks == 1), None)


def assumptions(cluster: Cluster, limit: float, compress: bool, backward_share: float) -> list[str]:
    """What the prediction assumes, one line each."""

    def words(link: Link) -> str:
        return f"α {1e6 * link.alpha:.3g} µs, {1e-9 / link.beta:.3g} GB/s"

    return [
        f"inside a node of {cluster.gpus_per_node} GPUs: {words(cluster.intra)} per GPU and "
        f"direction; between nodes: {words(cluster.inter)} per GPU, each with its own network card",
        "every GPU keeps its batch (weak scaling) and takes the same time: no straggler, no wait "
        "for data, no congestion",
        "the exchange takes no compute from the GPU; its parts inside a node, between nodes and "
        "inside again follow one another (NCCL pipelines them)",
        f"buckets of {limit / MIB:g} MiB (the first of 1 MiB), exchanged one after the other; "
        f"{'bf16' if compress else 'fp32'} on the wire",
        f"gradients become complete over {100 * backward_share:.0f} % of the step, up to the end "
        "of its backward; then the optimizers run",
    ]


def record(rows: Sequence[Prediction] | Sequence[Check]) -> list[dict[str, object]]:
    """The rows as JSON."""
    return [asdict(row) for row in rows]
