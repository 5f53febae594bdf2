"""Who writes into the run directory of an elastic run, and what is kept when the writer dies."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from child import ROOT

from fastass.checkpoint.own_files import CONFIG, MARK, METRICS, mark_text
from fastass.checkpoint.shared_run import SharedLock, SharedRunDirectory, begin_or_join
from fastass.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from fastass.checkpoint.shared_run import SharedLock
assert SharedLock(Path(sys.argv[1])).take()
print("held", flush=True)
time.sleep(60)
"""


def holder(run: Path) -> "subprocess.Popen[str]":
    """Another process that holds the lock of a run."""
    words = [sys.executable, "-c", HOLD, str(run)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def steps(*numbers: int) -> list[dict[str, Any]]:
    return [{"step": number, "terms": {}} for number in numbers]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process, lock = holder(run), SharedLock(run)
    try:
        assert not lock.take()
        assert f"process {process.pid} on " in lock.holder
        assert not lock.held
    finally:
        process.kill()
        process.communicate()
    assert lock.take()
    assert lock.take(), "it is held already"
    other = SharedLock(run)
    assert not other.take()
    lock.release()
    assert other.take()
    assert not lock.take()
    other.release()


def test_a_member_that_could_write_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastass.checkpoint.run_lock.time.sleep", lambda _: pytest.fail("waits"))
    with SharedLock(tmp_path / "run") as lock:
        assert lock.take()
        assert not SharedLock(tmp_path / "run").take()


def test_without_locks_there_is_no_elastic_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("fcntl.flock", refuse)
    line = rf"^--elastic: {tmp_path}: this file system has no locks \(.*\); choose an --out"
    with pytest.raises(UserError, match=line):
        SharedLock(tmp_path).take()


def test_later_processes_join_what_the_first_has_begun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = holder(run)
    try:
        with pytest.raises(UserError, match="has not begun the run for 0 s"):
            begin_or_join(SharedLock(run), 0.0)
        (run / MARK).write_text(mark_text())  # the configuration is still to be written
        with pytest.raises(UserError, match="has not begun the run for 0 s"):
            begin_or_join(SharedLock(run), 0.0)

        threading.Timer(0.5, (run / CONFIG).touch).start()
        assert begin_or_join(SharedLock(run), 20), "it waits for the first one to begin"
        joining = SharedLock(run)
        assert begin_or_join(joining, 0.0)
        assert not joining.held
    finally:
        process.kill()
        process.communicate()
    with SharedLock(run) as first:
        assert begin_or_join(first, 0.0), "its members may live, and only their writer has died"
        assert first.held
        assert (run / CONFIG).exists()
    with SharedLock(tmp_path / "new") as first:
        assert not begin_or_join(first, 0.0)


def test_a_run_with_a_checkpoint_is_continued(tmp_path: Path) -> None:
    """Also one of an earlier version, which has no mark."""
    tiny_runs.save(tmp_path, 1)
    (tmp_path / CONFIG).write_text("steps: 1\n")
    with SharedLock(tmp_path) as lock:
        assert begin_or_join(lock, 0.0)
    (tmp_path / MARK).write_text(mark_text())
    with SharedLock(tmp_path) as lock:
        assert begin_or_join(lock, 0.0)
        assert begin_or_join(lock, 0.0)


def test_a_directory_of_others_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(UserError, match="is not a run of fastass"):
        begin_or_join(SharedLock(tmp_path), 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_new_writer_adds_what_the_old_one_left_out(tmp_path: Path) -> None:
    writer = SharedRunDirectory(tmp_path, writes=True)
    next_one = SharedRunDirectory(tmp_path, writes=False)
    seen: list[dict[str, Any]] = []
    next_one.also = seen.append
    for record in steps(1, 2):
        writer.log(record)
        next_one.log(record)
    next_one.forget_kept()  # the writer has taken part in the next step
    for record in [*steps(3), {"step": 3, "eval": {}}, {"step": 3, "members": []}]:
        next_one.log(record)
    writer.log(steps(3)[0])
    text = (tmp_path / METRICS).read_text()  # a damaged line, and the one of its kill
    (tmp_path / METRICS).write_text('{"step": 1, "a\n' + text + '{"step": 3, "ev')
    next_one.take_over(3, {3})
    next_one.log(steps(4)[0])
    evaluation: dict[str, Any] = {"step": 3, "eval": {}}
    members: dict[str, Any] = {"step": 3, "members": []}
    assert lines(tmp_path) == [*steps(1, 2, 3), evaluation, members, *steps(4)]
    assert seen == [evaluation, members, *steps(4)]


def test_a_step_that_only_the_dead_writer_took_is_forgotten(tmp_path: Path) -> None:
    writer = SharedRunDirectory(tmp_path, writes=True)
    for record in steps(1, 2, 3):
        writer.log(record)
    next_one = SharedRunDirectory(tmp_path, writes=False)
    next_one.take_over(2, set())
    next_one.log(steps(3)[0])
    assert lines(tmp_path) == steps(1, 2, 3)
