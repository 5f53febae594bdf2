"""Write the traces of the roofline model: `make fake-cuda-traces`.

    python tests/fake_cuda/write_traces.py [--out DIR] [--method M …] [--norm N …] [--check]

Every step is recorded on the fake CUDA device at batch 1 and batch 2. `--check` writes nothing and
fails where a kept trace differs. A fault that the recorder finds in a step is an error.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import fake_device

import fastass  # noqa: F401  before torch: it sets up OpenMP

fake_device.install()

import torch  # noqa: E402
from fake_step import METHODS, NORMS, configured, record_step  # noqa: E402
from recorder import Recorder  # noqa: E402

from fastass.bench.model import trace  # noqa: E402
from fastass.bench.model.count import costs  # noqa: E402

ROOT = Path(__file__).parents[2]


def line(one: int, two: int) -> tuple[int, int]:
    """(constant, per image) of a number at batch 1 and batch 2."""
    return 2 * one - two, two - one


def rows(at_1: Recorder, at_2: Recorder) -> tuple[trace.Row, ...]:
    """The costs of a step as rows; ValueError where the two batches run different operators."""
    found: Counter[trace.Row] = Counter()
    for a, b in zip(costs(at_1.ops), costs(at_2.ops), strict=True):
        if a[:4] != b[:4]:
            raise ValueError(f"batch 1 runs {a[:4]}, batch 2 {b[:4]}")
        pairs = line(a.bytes, b.bytes), line(a.flops, b.flops)
        found[trace.Row(a.part, a.what, a.kind, 1, a.kernels, *pairs)] += 1
    return tuple(
        trace.Row(r.part, r.what, r.kind, count, r.kernels, r.bytes, r.flops)
        for r, count in sorted(found.items(), key=lambda item: str(item[0]))
    )


def traced(method: str, norm: str) -> trace.Trace:
    """The trace of an eager step. RuntimeError names the faults."""
    config = configured(method, norm)
    at_1, at_2 = (record_step(configured(method, norm, batch=batch)) for batch in (1, 2))
    if at_1.faults:
        raise RuntimeError(f"{method}, {norm}: {'; '.join(sorted(set(at_1.faults)))}")
    return trace.Trace(
        method=method,
        norm=norm,
        mode="eager",
        backbone=config.model.backbone,
        source_size=config.data.source_size,
        target_size=config.data.target_size,
        classes=config.model.num_classes,
        torch=torch.__version__.partition("+")[0],
        sources=trace.sources_hash(ROOT),
        peak=line(at_1.peak, at_2.peak),
        rows=rows(at_1, at_2),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=trace.FOLDER)
    parser.add_argument("--method", nargs="+", default=METHODS)
    parser.add_argument("--norm", nargs="+", default=NORMS)
    parser.add_argument("--check", action="store_true", help="compare with the kept traces")
    arguments = parser.parse_args(argv)
    different = []
    for method in arguments.method:
        for norm in arguments.norm:
            made = traced(method, norm)
            name = (
                f"{method} {norm}: {made.kernels} kernels, {made.bytes(8) / 1e9:.1f} GB at batch 8"
            )
            if not arguments.check:
                print(f"{name}: {trace.write(made, arguments.out)}", flush=True)
                continue
            kept = trace.read(method, norm, "eager", arguments.out)
            same = (kept.rows, kept.sources) == (made.rows, made.sources)
            print(f"{name}: {'as kept' if same else f'kept: {kept.kernels} kernels'}", flush=True)
            different += [] if same else [f"{method} {norm}"]
    if different:
        print(f"stale: {', '.join(different)}; {trace.REMEDY}", file=sys.stderr)
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
