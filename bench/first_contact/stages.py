"""The stages of first contact, in order: what is most informative for its time comes first.

python -m fastass.bench.first_contact.stages STAGE --out DIR --device cuda [--tiny]
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastass.bench.first_contact.results import Results
from fastass.runtime.openmp import wait_passively


class Stage(NamedTuple):
    """What a stage measures, and where; `least` seconds must be left, at `most` it is stopped."""

    what: str
    module: str
    function: str
    least: int
    most: int


class Context(NamedTuple):
    """What a stage gets: where results go, the device's name, and whether sizes are small."""

    results: Results
    device: str
    tiny: bool


STAGES = {
    "machine": Stage("versions, bandwidth, highest rate", "machine", "machine", 8, 40),
    "kernels": Stage("every kernel against fp64", "suites", "kernels", 20, 75),
    "operators": Stage("the table of operators", "suites", "operators", 20, 70),
    "engine": Stage("the eager step", "engine", "eager", 20, 75),
    "fused": Stage("fused convolutions and batch norms", "engine", "fused", 15, 60),
    "optimizers": Stage("the optimizers, apex's too", "engine", "optimizers", 10, 25),
    "profile": Stage("the longest kernels of a step", "profile", "profile", 12, 30),
    "reference": Stage("the AdaptSegNet baseline", "engine", "reference", 15, 45),
    "dali": Stage("decoding on the GPU, and training from it", "loading", "dali", 20, 60),
    "cudnn": Stage("cudnn.benchmark off and on", "engine", "cudnn", 12, 35),
    "cuda-graph": Stage("the eager step as one CUDA graph", "graphs", "graphed", 12, 30),
    "compile": Stage("torch.compile at batch 8", "engine", "compiled", 40, 100),
    "reduce-overhead": Stage("its CUDA graphs at batch 1", "engine", "reduce_overhead", 40, 90),
    "counters": Stage("hardware counters of three kernels", "counters", "counters", 20, 120),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=[*STAGES])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(argv)
    stage = STAGES[arguments.stage]
    wait_passively()  # before torch is loaded: its idle threads wait as they do in training
    from fastass.runtime.device import choose_device, make_current

    make_current(choose_device(arguments.device))  # also for the tests, which know `cuda` alone
    module = importlib.import_module(f"fastass.bench.first_contact.{stage.module}")
    results = Results(arguments.out, arguments.stage)
    getattr(module, stage.function)(Context(results, arguments.device, arguments.tiny))
    return 0


if __name__ == "__main__":
    sys.exit(main())
