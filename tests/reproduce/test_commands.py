"""Ctrl-C and SIGTERM while a grid of runs is trained."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs
from child import HEARS_SIGNALS, environment
from processes import children, ended

SCRIPT = """
import sys
from pathlib import Path

from fastass.reproduce.scheduler import CellRun, run_all
from fastass.runtime.signals import raise_terminated
from fastass.tracking.progress import Plain

raise_terminated()
out, words = Path(sys.argv[1]), tuple(sys.argv[2:])
run_all([CellRun(name, words) for name in "ab"], out, 1, Plain())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_run_that_trains_saves_and_no_other_starts(
    tmp_path: Path, number: signal.Signals
) -> None:
    city, out = tiny_runs.city(tmp_path / "city"), tmp_path / "out"
    train = tiny_runs.train(city, out, "--steps", "100000", "--save-every", "100000")
    words = train[1 : train.index("--out")] + train[train.index("--resume") + 1 :]
    grid = subprocess.Popen(
        [*HEARS_SIGNALS, sys.executable, "-c", SCRIPT, str(out), *words],
        env=environment(OMP_NUM_THREADS="1"),
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "a" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    trainers = children(grid.pid)
    os.killpg(grid.pid, number)  # as a terminal sends it
    assert grid.wait(timeout=60) != 0
    assert ended(trainers, within=1)
    assert "saved at step" in (out / "a.log").read_text()
    assert not (out / "b").exists()
