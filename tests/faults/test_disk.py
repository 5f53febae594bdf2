"""A disk that is full at any write, or read-only: one line, nothing lost, and the same command
goes on once there is room."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from commands import REMOVING, Case, Change, watch_changes
from processes import alone, command

COMMANDS = ("train", "pack", "predict", "eval", "report", "export")

FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)


def full_from_every_change(folder: str, name: str) -> int:
    """The disk is full from the first change of a file on, then from the second, …; → how many."""
    case, n = Case(folder, name), 0
    while True:
        n += 1

        def refuse(change: Change, n: int = n) -> None:
            if change.number >= n and change.event not in REMOVING:
                raise OSError(errno.ENOSPC, FULL, change.path)

        code = case(case.out, partial(watch_changes, case.disk, refuse))
        if code != 0:
            case.assert_told(code, FULL)
        case.assert_mended()
        shutil.rmtree(case.out)
        if code == 0:
            return n - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_from_any_change_on(tmp_path: Path, name: str) -> None:
    changes = alone(full_from_every_change, tmp_path, name)
    print(f"{name}: full at {changes} changes")
    assert changes > 1


def mount(where: Path, *options: str) -> None:
    words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(where)]
    subprocess.run(words, check=True)


def sizes(needed: int, count: int) -> Iterator[int]:
    """Bytes from a page to a little less than what is needed."""
    page = os.sysconf("SC_PAGESIZE")
    pages = needed // page
    yield from sorted({max(1, pages * i // count) * page for i in range(count)})


def small_disks(folder: str, name: str, count: int) -> int:
    """A real file system that fills up, of many sizes; then it grows. → how often it was full."""
    case, full = Case(folder, name), 0
    mount(case.disk, "size=64m")
    assert case(case.out) == 0, case.output.read_text()
    usage = os.statvfs(case.disk)
    needed = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
    subprocess.run(["umount", str(case.disk)], check=True)
    for size in sizes(needed, count):
        mount(case.disk, f"size={size}")
        code = case(case.out)
        if code != 0:
            full += 1
            case.assert_told(code, FULL)
        mount(case.disk, "remount", "size=64m")
        case.assert_mended()
        subprocess.run(["umount", str(case.disk)], check=True)
    return full


def read_only(folder: str, name: str) -> int:
    """A file system that can't be written, and (training) one that becomes so; → how often."""
    case = Case(folder, name)
    mount(case.disk, "size=64m")
    if name in ("eval", "report"):
        case.out.mkdir()
    mount(case.disk, "remount", "ro")
    case.assert_told(case(case.out), READ_ONLY, "no permission")
    mount(case.disk, "remount", "rw")
    if name == "train":
        assert command([*case.words(case.out), "--stop-at", "1"], case.output) == 0
        mount(case.disk, "remount", "ro")
        case.assert_told(case(case.out), READ_ONLY)
        mount(case.disk, "remount", "rw")
    case.assert_mended()
    return 1 + (name == "train")


def namespace() -> list[str]:
    """A command in which file systems may be mounted; skips where that is not permitted."""
    words = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None:
        pytest.skip("no real full or read-only disk: there is no unshare")
    tried = subprocess.run(
        [*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
    )
    if tried.returncode != 0:
        pytest.skip(f"no real full or read-only disk: mounting is refused: {tried.stderr.strip()}")
    return words


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "eval"])  # a page or two
def test_a_real_disk_that_fills_up(tmp_path: Path, name: str) -> None:
    full = alone(small_disks, tmp_path, name, 12, within=namespace())
    print(f"{name}: {full} disks were full")
    assert full > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_real_disk_that_is_read_only(tmp_path: Path, name: str) -> None:
    times = alone(read_only, tmp_path, name, within=namespace())
    print(f"{name}: read-only {times} times")
    assert times
