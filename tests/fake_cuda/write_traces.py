"""Write the traces of the roofline model: `make fake-cuda-traces`.

    python tests/fake_cuda/write_traces.py [--out DIR] [--method M …] [--norm N …] [--mode M …]

Every step is recorded on the fake CUDA device at batch 1 and batch 2; a fault that the recorder
finds in a step is an error. The compiled mode takes minutes. It and the fused mode are for ga+csa.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import fake_device

import fastass  # noqa: F401  before torch: it sets up OpenMP

fake_device.install()

from fake_step import METHODS, NORMS  # noqa: E402
from tracing import traced  # noqa: E402

from fastass.bench.model import trace  # noqa: E402

ONE = ("ga+csa",)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=trace.FOLDER)
    parser.add_argument("--method", nargs="+", default=METHODS)
    parser.add_argument("--norm", nargs="+", default=NORMS)
    parser.add_argument("--mode", nargs="+", default=trace.MODES)
    arguments = parser.parse_args(argv)
    # Compiled last: for inductor the process is changed further.
    for mode in sorted(arguments.mode, reverse=True):
        for method in arguments.method:
            if mode != "eager" and method not in ONE:
                continue
            for norm in arguments.norm:
                made = traced(method, norm, mode)
                path = trace.write(made, arguments.out)
                size = f"{made.kernels} kernels, {made.bytes(8) / 1e9:.1f} GB at batch 8"
                print(f"{method} {norm} {mode}: {size}: {path.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
