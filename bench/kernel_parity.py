"""ToyCity trained with each `--kernels` that this machine can run: same losses, time and memory.

    python -m bench.kernel_parity [--steps 24] [--method ga+csa ga+fcsa] [--dir DIR] [--json]

Each choice trains in a process of its own, one after the other, from the same seed: `fastass train
toycity --kernels CHOICE --steps N` without the supervised start, at a tenth of its learning rate:
training amplifies the differences of rounding, and the faster the more it learns. The losses of the
first step are held against the reference's within `FIRST`, later ones within `LATER`; exit status 1
if they part. The rate is that of steps, without evaluation and saving; to compare paths in turns:
`fastass bench step toycity --switches`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from fastass.config.presets import TOYCITY_SGD
from fastass.config.text import as_flags
from fastass.kernels import available

FIRST = 1e-5  # relative difference of a loss term at the first step: float32 sums in another order
LATER = 1e-2  # … at any step of a short run
METHODS = ("ga+csa", "ga+fcsa")  # between them, every operator

Losses = list[dict[str, float]]  # the terms of each step
Row = dict[str, Any]


def choices() -> list[str]:
    """`reference`, and what `--kernels auto` would run here if it is not the same."""
    usable = available()
    fast = "triton" if torch.cuda.is_available() else "native"
    return ["reference", *([fast] if usable[fast] is None else [])]


def train(choice: str, method: str, steps: int, out: Path, extra: Sequence[str]) -> dict[str, Any]:
    """One run: its losses and its summary."""
    command = [
        *(sys.executable, "-m", "fastass", "train", "toycity", "--out", str(out)),
        *(
            "--kernels",
            choice,
            "--method",
            method,
            "--no-mix",
            "--steps",
            str(steps),
            "--start-steps",
            "0",
        ),
        *as_flags({**TOYCITY_SGD, "optim.lr": 0.01, "optim.head_lr": 0.01}),
        *("--log-every", "1", "--eval-every", "0", *extra),
    ]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [record["terms"] for record in records if "terms" in record]
    return {"losses": losses, "summary": json.loads((out / "summary.json").read_text())}


def differences(ours: Losses, truth: Losses) -> list[float]:
    """The largest relative difference among the loss terms, at each step."""
    largest = []
    for a, b in zip(ours, truth, strict=True):
        if a.keys() != b.keys():
            raise ValueError(f"terms {sorted(a)} and {sorted(b)} differ")
        largest.append(max(abs(a[name] - b[name]) / max(abs(b[name]), 1e-12) for name in b))
    return largest


def compare(method: str, steps: int, folder: Path, extra: Sequence[str] = ()) -> list[Row]:
    """One row per choice; the first is the reference."""
    rows: list[Row] = []
    truth: Losses = []
    for choice in choices():
        run = train(choice, method, steps, folder / f"{method}-{choice}", extra)
        truth = truth or run["losses"]
        difference = differences(run["losses"], truth)
        summary = run["summary"]
        rows.append(
            {
                "method": method,
                "kernels": choice,
                "images_per_second": summary["images_per_second"],
                "speed": summary["images_per_second"] / (rows or [summary])[0]["images_per_second"],
                "peak_memory_mib": summary["peak_memory_mib"],
                "first_difference": difference[0],
                "largest_difference": max(difference),
                "agree": difference[0] <= FIRST and max(difference) <= LATER,
            }
        )
    return rows


COLUMNS = {
    "method": "{method}",
    "kernels": "{kernels}",
    "images/s": "{images_per_second:.1f}",
    "speed": "{speed:.2f}×",
    "peak MiB": "{peak_memory_mib:.0f}",
    "losses differ: first step": "{first_difference:.1e}",
    "any step": "{largest_difference:.1e}",
}


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    cells = [[cell.format(**row) for cell in COLUMNS.values()] for row in rows]
    return tabulate(cells, [*COLUMNS], tablefmt="github", disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_parity", description=__doc__)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--method", nargs="+", default=METHODS)
    parser.add_argument("--dir", type=Path, help="keep the runs there")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.dir or Path(temporary)
        rows = [r for m in arguments.method for r in compare(m, arguments.steps, folder)]
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))
    return int(not all(row["agree"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
