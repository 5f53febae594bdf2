"""SIGKILL of pack, predict, report, reproduce, eval and export, and of one of two at once.

Every file under its own name is whole at any moment, and the same command again ends as if nothing
had been. Runs that train are killed more closely in test_kill.py.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import tiny_runs
from commands import Case, Change, content, is_temporary, watch_changes
from processes import alone, command, victim

AT_ONCE = ("is training there", "packing into it", "predicting into it", "can't resume")


def kill_before_every_change(folder: str, name: str) -> int:
    """A command killed before its first change of a file, another before its second, …"""
    case, n = Case(folder, name), 0
    while True:
        n += 1
        code = case(case.out, partial(watch_changes, case.disk, Killer(n)))
        if code == 0:
            case.assert_finished()
            return n - 1
        assert code == -signal.SIGKILL, case.output.read_text()
        case.assert_whole()
        resume(case)
        case.assert_finished()
        shutil.rmtree(case.out)


class Killer:
    """Kills the process that was forked from this one before its n-th change, not its children."""

    def __init__(self, n: int) -> None:
        self.n, self.parent = n, os.getpid()

    def __call__(self, change: Change) -> None:
        if change.number == self.n and os.getppid() == self.parent:
            os.kill(os.getpid(), signal.SIGKILL)


def resume(case: Case) -> None:
    """The same command again; predict keeps what is there."""
    words = case.words(case.out) + (["--resume"] if case.name == "predict" else [])
    code = command(words, case.output, case.prepared())
    assert code == 0, case.output.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pack", "predict", "report", "reproduce", "eval"])
def test_a_kill_before_any_change_of_a_file(tmp_path: Path, name: str) -> None:
    kills = alone(kill_before_every_change, tmp_path, name)
    print(f"{name}: {kills} kills")
    assert kills >= 5


def kill_at_random(folder: str, name: str, kills: int, seed: int) -> dict[str, int]:
    """Kill a command, and the one that resumes it, until it was hit so often."""
    case, draw, killed, finished = Case(folder, name), random.Random(seed), 0, 0
    began = time.monotonic()
    assert case(case.out) == 0, case.output.read_text()
    whole = time.monotonic() - began
    shutil.rmtree(case.out)
    while killed < kills:
        if name in ("eval", "report"):
            case.out.mkdir(exist_ok=True)
        process = start(case)
        time.sleep(draw.uniform(0, 1.1 * whole))
        process.kill()
        process.join()
        if process.exitcode:
            assert process.exitcode == -signal.SIGKILL, case.output.read_text()
            killed += 1
            case.assert_whole()
        else:
            finished += 1
            case.assert_finished()
            shutil.rmtree(case.out)
    if name in ("eval", "report"):
        case.out.mkdir(exist_ok=True)
    resume(case)
    case.assert_finished()
    return {"kills": killed, "finished": finished}


def start(case: Case, output: str = "") -> ForkProcess:
    words = case.words(case.out) + (["--resume"] if case.name == "predict" else [])
    return victim(words, case.output.with_name(output or case.output.name), case.prepared())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("predict", 30), ("report", 20), ("reproduce", 12)])
def test_kills_at_random_moments(tmp_path: Path, name: str, kills: int) -> None:
    found = alone(kill_at_random, tmp_path, name, kills, 0)
    print(f"{name}: {found}")
    assert found["kills"] >= kills


def kill_one_of_two(folder: str, name: str, pairs: int, seed: int) -> Counter[str]:
    """Two of the same command at once, one of them killed; the other, or the next, finishes."""
    case, draw, ends = Case(folder, name), random.Random(seed), Counter[str]()
    began = time.monotonic()
    assert case(case.out) == 0, case.output.read_text()
    whole = time.monotonic() - began
    for _ in range(pairs):
        shutil.rmtree(case.out)
        if name in ("eval", "report"):
            case.out.mkdir()
        outputs = ("output0.txt", "output1.txt")
        both = [start(case, output) for output in outputs]
        time.sleep(draw.uniform(0, 1.1 * whole))
        killed = draw.randrange(2)
        both[killed].kill()
        for process in both:
            process.join()
        left = both[1 - killed].exitcode
        text = case.output.with_name(outputs[1 - killed]).read_text()
        assert left in (0, 2), text
        assert "Traceback" not in text, text
        assert left == 0 or any(reason in text for reason in AT_ONCE), text
        ends[f"killed, other {left}" if both[killed].exitcode else f"too late, other {left}"] += 1
        case.assert_whole()
        if left == 0:
            case.assert_finished()
        resume(case)
        case.assert_finished()
    return ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs"),
    [("train", 10), ("pack", 12), ("predict", 12), ("report", 12), ("reproduce", 6)],
)
def test_one_of_two_at_once_is_killed(tmp_path: Path, name: str, pairs: int) -> None:
    ends = alone(kill_one_of_two, tmp_path, name, pairs, 0)
    print(f"{name}: {ends}")
    assert sum(ends.values()) == pairs
    assert sum(n for end, n in ends.items() if end.startswith("killed")) > pairs // 2


def kill_another_network(folder: str) -> int:
    """predict over the results of another network, killed before every change, then resumed."""
    case, n = Case(folder, "predict"), 0
    other, old = case.root / "other", case.root / "old"
    assert command(tiny_runs.train(case.city, other, "--seed", "7"), case.output) == 0
    words = [str(other) if word == str(case.run) else word for word in case.words(old)]
    assert command(words, case.output) == 0, case.output.read_text()
    before, after = content(old), content(case.calm)
    assert all(before[name] != after[name] for name in after)
    while True:
        n += 1
        shutil.copytree(old, case.out)
        code = case(case.out, partial(watch_changes, case.disk, Killer(n)))
        for name, digest in content(case.out).items():
            assert is_temporary(name) or digest in (before[name], after[name]), (n, name)
        if code == 0:
            return n - 1
        again = command([*case.words(case.out), "--resume"], case.output)
        if again == 2:  # killed before it had written what its results are made with
            assert "made with another network" in case.output.read_text()
            found = content(case.out)
            assert {name: found[name] for name in found if not is_temporary(name)} == before
        else:
            case.assert_finished()
        shutil.rmtree(case.out)


@pytest.mark.slow
def test_results_of_two_networks_are_never_mixed(tmp_path: Path) -> None:
    kills = alone(kill_another_network, tmp_path)
    print(f"kills: {kills}")
    assert kills >= 5
