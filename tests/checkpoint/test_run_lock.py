"""The lock of a run directory, within one process; between processes: test_run_directory.py."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from fastass.checkpoint.run_lock import LOCK, PATIENCE, locked_run
from fastass.errors import UserError


def test_the_lock_is_held_and_removed(tmp_path: Path) -> None:
    run = tmp_path / "a" / "b"
    with locked_run(run, print):
        assert (run / LOCK).read_text() == f"process {os.getpid()} on {os.uname().nodename}"
        with (
            pytest.raises(UserError, match=r"is training there; wait for it, or choose another --"),
            locked_run(run, print),
        ):
            pass
        (run / "kept").touch()
    assert [path.name for path in run.iterdir()] == ["kept"]


def test_what_was_made_and_is_empty_is_removed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with locked_run(tmp_path / "there" / "a" / "b", print):
        pass
    assert list((tmp_path / "there").iterdir()) == []
    with locked_run(tmp_path / "there", print):
        pass
    assert (tmp_path / "there").is_dir()
    with pytest.raises(KeyError), locked_run(tmp_path / "x" / "y", print):
        raise KeyError
    assert not (tmp_path / "x").exists()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/run: can't make the run directory: Not a directory"),
        locked_run(tmp_path / "file" / "run", print),
    ):
        pass


def test_without_patience_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("fastass.checkpoint.run_lock.time.monotonic", lambda: now)
    monkeypatch.setattr("fastass.checkpoint.run_lock.time.sleep", lambda _: pytest.fail("waits"))
    with locked_run(tmp_path, print), pytest.raises(UserError), locked_run(tmp_path, print):
        pass


def test_patience_lasts_until_the_other_has_ended(tmp_path: Path) -> None:
    ended, taken = threading.Event(), threading.Event()

    def hold() -> None:
        with locked_run(tmp_path, print):
            taken.set()
            ended.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(20)
    began = time.monotonic()
    with pytest.raises(UserError), locked_run(tmp_path, print, patience=0.3):
        pass
    assert 0.3 <= time.monotonic() - began < 10
    threading.Timer(0.3, ended.set).start()
    with locked_run(tmp_path, print, patience=20):
        assert ended.is_set()
    holder.join()
    assert PATIENCE == 5


def failing(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.parametrize(
    "code", [errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL]
)
def test_without_locks_the_run_goes_on(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, code)
    lines: list[str] = []
    with locked_run(tmp_path, lines.append):
        assert lines == [
            f"{tmp_path}: this file system has no locks ({os.strerror(code)}); make sure that only "
            "one process is training there"
        ]


def test_a_disk_that_refuses_the_lock_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, errno.EROFS)
    with (
        pytest.raises(UserError, match=r": can't write there: Read-only file system$"),
        locked_run(tmp_path, print),
    ):
        pass


def test_a_disk_that_becomes_read_only_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def fail() -> None:
        monkeypatch.setattr(Path, "unlink", refuse)
        raise KeyError

    with pytest.raises(KeyError), locked_run(tmp_path, print):
        fail()
