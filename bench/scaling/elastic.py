"""What killed members cost an elastic run.

    python -m bench.scaling.elastic [--kills 50] [--members 4] [--seeds 0,1,2] [--json FILE]

For each seed, `fastass train --elastic` trains GA+CSA on ToyCity with several members on this
machine. Random ones are killed by SIGKILL at random times, and for each a new one is started. The
command prints how many steps had to be repeated, how long the others waited, and the mIoU beside
that of one undisturbed process. Exit code 1 where a kill costs more than a step, where a member
ends that was not killed, or where a record is missing. Needs torchft.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from tabulate import tabulate

from fastass.bench.result import check_result_file, write_result
from fastass.bench.scaling.elastic_group import DIFFER, Group, has_torchft, lighthouse
from fastass.config.presets import TOYCITY_SGD
from fastass.config.text import as_flags

FLAGS = (
    "--method ga+csa --no-mix --labelled 20 --batch 4 --data-source-size 128x72 --plain "
    "--data-target-size 128x64 --eval-every 0 --save-every 50 --log-every 1 --workers 0 "
    "--distributed-timeout 60"
).split() + as_flags(TOYCITY_SGD)
BATCH, STREAMS = 4, 3  # images per stream and step; streams of the method, one of the start


@dataclass(frozen=True)
class Disturbed:
    """One run with kills. left: how many kills left so many members. repeated: attempts of a step
    that did not count. longest: seconds of the longest step, data and waiting included."""

    seed: int
    kills: int
    left: dict[int, int]
    repeated: int
    most: int
    longest: float
    miou: float


def disturbed(
    words: Sequence[str],
    folder: Path,
    *,
    kills: int,
    members: int,
    seed: int,
    start: int,
    total: int,
) -> Disturbed:
    """Train with random kills; RuntimeError where a member ends that was not killed."""
    draw = random.Random(seed)
    at = sorted(draw.sample(range(5, total - 20), kills))
    left: Counter[int] = Counter()
    with lighthouse() as address, Group([*words, "--elastic", address], folder) as group:
        for _ in range(members):
            group.start()
        for step in at:
            group.until(lambda step=step: group.step() >= step and len(group.joined()) > 1)  # type: ignore[misc]
            time.sleep(draw.random())
            victim = draw.choice(group.joined())
            left[len(group.joined()) - 1] += 1
            victim.kill()
            group.start()
        group.finish()
        records, lost = group.records(), [Counter(m.lost()) for m in group.members]
        steps = [record for record in records if "terms" in record]
        if [record["step"] for record in steps] != list(range(1, total + 1)):
            raise RuntimeError(f"{group.run}: a step has no record, or two")
        differ = [line for m in group.members for line in m.output.splitlines() if DIFFER in line]
        if differ:
            raise RuntimeError(f"{group.run}: {differ[0]}")
        summary = json.loads((group.run / "summary.json").read_text())
    attempts = {step: max(each[step] for each in lost) for step in set().union(*lost)}
    longest = max(
        BATCH * (1 if record["step"] <= start else STREAMS) / record["images_per_second"]
        for record in steps
    )
    most = max(attempts.values(), default=0)
    repeated = sum(attempts.values())
    by_left = dict(sorted(left.items()))
    return Disturbed(seed, kills, by_left, repeated, most, longest, summary["miou"])


def undisturbed(words: Sequence[str], folder: Path) -> float:
    """The mIoU of one process that takes the whole steps."""
    with Group(words, folder) as group:
        group.start()
        group.finish(3600)
    return float(json.loads((group.run / "summary.json").read_text())["miou"])


def table(runs: Sequence[Disturbed], calm: Sequence[float]) -> str:
    """One line per seed."""
    rows = [
        (
            run.seed,
            run.kills,
            ", ".join(f"{count}× {left}" for left, count in run.left.items()),
            run.repeated,
            run.most,
            f"{run.longest:.1f}",
            f"{run.miou:.1f}",
            f"{alone:.1f}",
        )
        for run, alone in zip(runs, calm, strict=True)
    ]
    heads = ["seed", "kills", "members left", "steps repeated", "times at most", "longest step s"]
    return tabulate(
        rows, [*heads, "mIoU", "mIoU undisturbed"], tablefmt="github", disable_numparse=True
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.elastic", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of all runs together")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--start-steps", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--data", type=Path, default=Path("data/toycity"), help="of ToyCity")
    parser.add_argument("--json", type=Path, help="also write the result there")
    args = parser.parse_args(argv)
    if not has_torchft():
        raise SystemExit("bench.scaling.elastic: torchft is not installed; pip install torchft")
    if args.json is not None:
        check_result_file(args.json)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    lengths = ["--start-steps", str(args.start_steps), "--steps", str(args.steps)]
    runs, calm = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            words = ["-m", "fastass", "train", "toycity", *FLAGS, *lengths]
            words += ["--toycity-directory", str(args.data.absolute()), "--seed", str(seed)]
            for name in ("calm", "kills"):
                (Path(folder) / f"{name}{seed}").mkdir()
            calm.append(undisturbed(words, Path(folder) / f"calm{seed}"))
            kills = args.kills // len(seeds) + (number < args.kills % len(seeds))
            run = disturbed(
                words,
                Path(folder) / f"kills{seed}",
                kills=kills,
                members=args.members,
                seed=seed,
                start=args.start_steps,
                total=args.start_steps + args.steps,
            )
            runs.append(run)
            if args.json is not None:  # first: the output may be closed
                result = {"runs": [asdict(run) for run in runs], "undisturbed": calm}
                write_result(args.json, "bench.scaling.elastic", {**result, "on": _machine()})
            print(table(runs, calm), flush=True)
    kills, repeated = sum(run.kills for run in runs), sum(run.repeated for run in runs)
    spread = statistics.stdev(calm) if len(calm) > 1 else 0.0
    print(
        f"{kills} kills: {repeated} steps were repeated; nobody else ended; mIoU "
        f"{statistics.mean(run.miou for run in runs):.1f}, undisturbed {statistics.mean(calm):.1f} "
        f"± {spread:.1f} over the seeds\n{args.members} processes, one thread each; {_machine()}"
    )
    return 0 if all(run.repeated <= run.kills for run in runs) else 1


def _machine() -> str:
    return f"{os.cpu_count()} CPU cores, torch {torch.__version__}, {date.today()}"


if __name__ == "__main__":
    sys.exit(main())
