"""A disk that is full at any write, or read-only: one line, nothing lost, and the same command
goes on once there is room."""

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dataset_files
import pytest
import tiny_runs
from file_changes import REMOVING, Change, watch_changes
from processes import alone, command

FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)
COMMANDS = ("train", "pack", "predict", "eval", "report", "export")


class Case:
    """A command that writes into `out`, in a folder with all that it reads."""

    def __init__(self, folder: str, name: str) -> None:
        self.root, self.name = Path(folder), name
        self.output, self.disk = self.root / "output.txt", self.root / "disk"
        self.calm, self.out = self.root / "calm", self.disk / "out"
        self.city, self.run = tiny_runs.city(self.root / "city"), self.root / "trained"
        self.disk.mkdir()
        if name == "pack":
            dataset_files.gta5(self.root / "gta5", 5)
        elif name != "train":
            assert command(tiny_runs.train(self.city, self.run), self.output) == 0
        assert self(self.calm) == 0, self.output.read_text()

    def words(self, out: Path) -> list[str]:
        """The command that writes into the folder `out`."""
        data = str(self.city / "cityscapes")
        match self.name:
            case "train":
                return tiny_runs.train(self.city, out, "--steps", "1", "--start-steps", "1")
            case "pack":
                size = ["--size", "32x20", "--workers", "1", "--records-per-shard", "2"]
                return ["pack", "--root", str(self.root / "gta5"), "--out", str(out), *size]
            case "predict":
                return ["predict", str(self.run), data + "/leftImg8bit/val", "--out", str(out)]
            case "eval":
                return ["eval", str(self.run), "--data", data, "--json", str(out / "scores.json")]
            case "report":
                return ["report", str(self.run), "--out", str(out / "report.html")]
            case _:
                form = ["--format", "safetensors", "--overwrite"]
                return ["export", str(self.run), *form, "--out", str(out / "model")]

    def __call__(self, out: Path, prepare: Callable[[], None] = lambda: None) -> int:
        if self.name in ("eval", "report"):  # their folder has to be there
            out.mkdir(exist_ok=True)
        return command(self.words(out), self.output, prepare)

    def assert_told(self, code: int, *reasons: str) -> None:
        """The command ended with one line of ours that has one of the reasons and a path."""
        text = self.output.read_text()
        lines = [line for line in text.splitlines() if line.startswith("fastass: ")]
        assert (code, len(lines)) == (2, 1), (code, text)
        assert "Traceback" not in text, text
        assert any(reason in lines[0] for reason in reasons), lines
        assert str(self.disk) in lines[0], lines
        if self.name == "train" and (self.out / "checkpoints").exists():
            tiny_runs.assert_readable(self.out)

    def assert_mended(self) -> None:
        """The same command again, on a sound disk, ends as if nothing had been."""
        assert self(self.out) == 0, self.output.read_text()
        if self.name == "train":
            tiny_runs.assert_same(self.out, self.calm)
        else:
            assert content(self.out) == content(self.calm)


def content(folder: Path) -> dict[str, str]:
    """File name → digest, of a folder and those in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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
