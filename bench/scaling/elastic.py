"""What a killed replica costs with torchft: a prototype of elastic training, with random kills.

    python -m bench.scaling.elastic [--replicas 3] [--kills 10] [--seed 0]

Replicas train one small GA+CSA network together over gloo (`elastic_replica`). One after the other,
a random one is killed by SIGKILL in the middle of a step and started again. The command prints how
many attempts of a step were lost, how long the others waited, whether newcomers have the weights of
their peers, and whether the losses are those of an undisturbed run. Exit code 1 if not.
Needs torchft (`pip install torchft`).
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined, unused-ignore]

from fastass.bench.scaling.elastic_replica import (
    GLOBAL_BATCH,
    UNTIL,
    gradients,
    sgd,
    share,
    small,
)
from fastass.method.adaptation import method_spec
from fastass.runtime.process_group import SINGLE_PROCESS
from fastass.training.step import build

Record = dict[str, Any]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


@contextmanager
def lighthouse() -> Iterator[str]:
    """torchft's server that agrees on the members; → its address."""
    beside = Path(sys.executable).parent / "torchft_lighthouse"
    if find_spec("torchft") is None or not beside.exists():
        raise SystemExit("bench.scaling.elastic: torchft is not installed; pip install torchft")
    port = free_port()
    words = ["--bind", f"[::]:{port}", "--min_replicas", "1", "--join_timeout_ms", "3000"]
    words += ["--heartbeat_timeout_ms", "1500", "--quorum_tick_ms", "50"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([beside, *words], stdout=quiet, stderr=quiet)
    try:
        time.sleep(1)
        yield f"http://localhost:{port}"
    finally:
        process.kill()
        process.wait()


class Replica:
    """One replica that is started again after each kill. Each life has a store of its own."""

    def __init__(self, number: int, folder: Path, address: str) -> None:
        self.folder, self.name, self.address = folder, f"replica{number}", address
        self.lives = 0
        self.start()

    def start(self) -> None:
        """Begin a life, whose records go to a file of its own."""
        self.log = self.folder / f"{self.name}-{self.lives}.jsonl"
        self.lives += 1
        self._store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        module = "fastass.bench.scaling.elastic_replica"
        words = [f"{self.name}_", str(self.folder), str(self.log), str(self._store.port)]
        environment = {**os.environ, "TORCHFT_LIGHTHOUSE": self.address, "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{self.name}.log", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                env=environment,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def last(self) -> Record:
        """The record of its last step; empty before its first one."""
        lines = records(self.log)
        return lines[-1] if lines else {}


def records(log: Path) -> list[Record]:
    """The steps of one life; a kill may tear the last line."""
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def train(replicas: int, kills: int, seed: int, folder: Path) -> list[Record]:
    """Train with random kills → the records of all lives, in no order."""
    draw = random.Random(seed)
    with lighthouse() as address, ExitStack() as ends:
        group = [Replica(i, folder, address) for i in range(replicas)]
        for replica in group:
            ends.callback(replica.kill)
        for _ in range(kills):
            _wait(group, lambda: all(r.last().get("members") == replicas for r in group))
            time.sleep(draw.random())
            victim = draw.choice(group)
            victim.kill()
            victim.start()
        _wait(group, lambda: all(r.last().get("members") == replicas for r in group))
        step = max(r.last()["step"] for r in group)
        (folder / UNTIL).write_text(str(step + 20))
        _wait(group, lambda: all(r.process.poll() == 0 for r in group))
    return [record for log in folder.glob("*.jsonl") for record in records(log)]


def _wait(group: Sequence[Replica], until: Callable[[], bool], seconds: float = 120.0) -> None:
    """SystemExit with the end of its log for a replica that fails, or after `seconds`."""
    end = time.monotonic() + seconds
    while not until():
        for replica in group:
            if replica.process.poll() not in (None, 0) or time.monotonic() > end:
                text = (replica.folder / f"{replica.name}.log").read_text(errors="replace")
                raise SystemExit(f"bench.scaling.elastic: {replica.name}: {text[-1500:]}")
        time.sleep(0.05)


def undisturbed(steps: int) -> dict[int, float]:
    """The loss of each step of one process that takes the whole batches."""
    torch.set_num_threads(1)
    config = small()
    module = build(config, method_spec(config.method, GLOBAL_BATCH, False))
    optimizer = sgd(module)
    losses = {}
    for step in range(steps):
        optimizer.zero_grad()
        losses[step] = float(gradients(module, config, share(step, 0, 1), SINGLE_PROCESS))
        optimizer.step()
    return losses


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.elastic", description=__doc__)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = train(args.replicas, args.kills, args.seed, Path(folder))
    committed = [r for r in found if r["counts"]]
    lost = {r["step"] for r in found if not r["counts"]}
    attempts = max(
        (sum(1 for r in found if r["step"] == step and not r["counts"]) for step in lost), default=0
    )
    weights: dict[int, set[float]] = defaultdict(set)
    for record in committed:
        weights[record["step"]].add(record["weights"])
    apart = [step for step, seen in weights.items() if len(seen) > 1]
    truth = undisturbed(max(weights) + 1)
    far = max(abs(r["loss"] - truth[r["step"]]) / truth[r["step"]] for r in committed)
    wait = max(r["seconds"] for r in committed)
    steps = len(weights)
    print(
        f"{args.replicas} replicas, {args.kills} kills, {steps} steps: {len(lost)} steps were "
        f"repeated, {attempts} replica-attempts at most for one of them; the longest step took "
        f"{wait:.1f} s; weights differ between replicas in {len(apart)} steps; losses differ by "
        f"{far:.1e} from those of one undisturbed process"
    )
    whole = set(weights) == set(range(steps))
    return 0 if whole and not apart and far < 1e-3 and len(lost) <= args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
