"""SIGKILL at any moment of training, saving and evaluating: the restart goes on, nothing is lost.

Packing is killed in test_pack.py, a rank of several in test_elastic.py, the other commands, and one
of two at once, in test_kill_commands.py.
"""

import json
import mmap
import os
import random
import shutil
import signal
import time
from collections import Counter
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from commands import Change, watch_changes
from processes import alone, command, victim

from fastass.checkpoint import async_writer
from fastass.training import loop, summary

MOMENTS = ("training", "saving", "evaluating")
KILLS = 40  # of each moment


class Stage:
    """Where a victim is, in memory that outlives it: how often it began each moment, and ended."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4 * len(MOMENTS))
        self._counts = memoryview(self._memory).cast("H")

    def reset(self) -> None:
        for i in range(2 * len(MOMENTS)):
            self._counts[i] = 0

    def begun(self, moment: str) -> int:
        return self._counts[2 * MOMENTS.index(moment)]

    def inside(self, moment: str) -> bool:
        return self.begun(moment) > self._counts[2 * MOMENTS.index(moment) + 1]

    def now(self) -> str:
        """The one that was going on; saving goes on beside the others."""
        return next((m for m in reversed(MOMENTS[1:]) if self.inside(m)), "training")

    def watch(self, moment: str, owner: Any, name: str) -> None:
        """Count each call of `owner.name`; in the victim."""
        function, at = getattr(owner, name), 2 * MOMENTS.index(moment)

        @wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            self._counts[at] += 1
            try:
                return function(*arguments, **options)
            finally:
                self._counts[at + 1] += 1

        setattr(owner, name, counted)

    def watch_all(self) -> None:
        self.watch("saving", async_writer, "save_checkpoint")
        self.watch("evaluating", loop.Trainer, "_evaluate")
        self.watch("evaluating", loop, "before_and_after")
        self.watch("evaluating", summary, "contact_sheet")


def kill_runs(folder: str, kills: int, seed: int) -> dict[str, int]:
    """Kill runs until each moment was hit `kills` times; → how often each was, and runs finished.

    Each run is started again until it ends, and must then be as the calm one.
    """
    root = Path(folder)
    city, calm, run = tiny_runs.city(root / "city"), root / "calm", root / "run"
    output, stage, draw = root / "output.txt", Stage(), random.Random(seed)
    began = time.monotonic()
    assert command(tiny_runs.train(city, calm), output) == 0, output.read_text()
    whole = time.monotonic() - began
    hit: Counter[str] = Counter()
    finished = 0
    while min(hit[m] for m in MOMENTS) < kills:
        shutil.rmtree(run, ignore_errors=True)
        while True:
            stage.reset()
            process = victim(tiny_runs.train(city, run), output, stage.watch_all)
            rarest = min(MOMENTS, key=lambda m: hit[m])
            if rarest == "training":
                time.sleep(draw.uniform(0, 1.2 * whole))
            else:
                count = draw.randint(1, 3)
                while stage.begun(rarest) < count and process.is_alive():
                    time.sleep(0.0005)
                time.sleep(draw.uniform(0, 0.02 if rarest == "saving" else 0.1))
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL, output.read_text()
            hit[stage.now()] += 1
            if (run / "checkpoints").exists():
                tiny_runs.assert_readable(run)
        tiny_runs.assert_same(run, calm)
        finished += 1
    return {**hit, "finished": finished}


@pytest.mark.slow
def test_kills_at_random_moments_cost_nothing(tmp_path: Path) -> None:
    hit = alone(kill_runs, tmp_path, KILLS, 0)
    print("kills:", hit)
    assert all(hit[moment] >= KILLS for moment in MOMENTS)


def kill_at_every_change(folder: str) -> dict[str, int]:
    """A run killed before its first change of the file system, another before its second, …"""
    root = Path(folder)
    city, calm, run = tiny_runs.city(root / "city"), root / "calm", root / "run"
    output, short = root / "output.txt", ("--steps", "1", "--start-steps", "1")
    assert command(tiny_runs.train(city, calm, *short), output) == 0, output.read_text()
    n = 0
    while True:
        n += 1
        shutil.rmtree(run, ignore_errors=True)

        def kill(change: Change, n: int = n) -> None:
            if change.number == n:
                os.kill(os.getpid(), signal.SIGKILL)

        words = tiny_runs.train(city, run, *short)
        code = command(words, output, partial(watch_changes, run, kill))
        if code != 0:
            assert code == -signal.SIGKILL, output.read_text()
            if (run / "checkpoints").exists():
                tiny_runs.assert_readable(run)
            assert command(words, output) == 0, (n, output.read_text())
        try:
            tiny_runs.assert_same(run, calm)
        except AssertionError as error:
            raise AssertionError(f"killed before change {n}") from error
        if code == 0:
            return {"kills": n - 1}


@pytest.mark.slow
def test_a_kill_before_any_change_of_a_file_costs_nothing(tmp_path: Path) -> None:
    found = alone(kill_at_every_change, tmp_path)
    print("kills:", found)
    assert found["kills"] > 60


def kill_evaluations(folder: str, kills: int, seed: int) -> dict[str, int]:
    """`fastass eval --json`, killed at random: a whole file or none."""
    root = Path(folder)
    city, run, output = tiny_runs.city(root / "city"), root / "run", root / "output.txt"
    draw = random.Random(seed)
    assert command(tiny_runs.train(city, run), output) == 0, output.read_text()
    result, data = root / "result.json", ["--data", str(city / "cityscapes")]
    words = ["eval", str(run), *data, "--json", str(result)]
    began = time.monotonic()
    assert command(words, output) == 0, output.read_text()
    whole = time.monotonic() - began
    wanted, killed = result.read_bytes(), 0
    while killed < kills:
        result.unlink(missing_ok=True)
        process = victim(words, output)
        time.sleep(draw.uniform(0, 1.1 * whole))
        process.kill()
        process.join()
        killed += process.exitcode != 0
        if result.exists():
            assert result.read_bytes() == wanted
    assert command(words, output) == 0
    assert json.loads(result.read_bytes()) == json.loads(wanted)
    return {"kills": killed}


@pytest.mark.slow
def test_a_killed_evaluation_leaves_a_whole_result_or_none(tmp_path: Path) -> None:
    assert alone(kill_evaluations, tmp_path, 20, 0)["kills"] >= 20
