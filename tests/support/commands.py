"""Every command that writes, on tiny data, and every change that it makes to files: for tests that
kill it, or take its disk away."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import dataset_files
import tiny_runs
from processes import command

REMOVING = ("os.remove", "os.rmdir")
CHANGING = ("os.mkdir", "os.rename", "os.symlink", *REMOVING)


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
        elif name not in ("train", "reproduce"):
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
            case "reproduce":
                cells = ["--toycity", "--counts", "2", "--methods", "ga+csa"]
                return ["reproduce", "table1", *cells, "--out", str(out)]
            case "report":
                return ["report", str(self.run), "--out", str(out / "report.html")]
            case _:
                form = ["--format", "safetensors", "--overwrite"]
                return ["export", str(self.run), *form, "--out", str(out / "model")]

    def __call__(self, out: Path, prepare: Callable[[], None] = lambda: None) -> int:
        if self.name in ("eval", "report"):  # their folder has to be there
            out.mkdir(exist_ok=True)
        return command(self.words(out), self.output, self.prepared(prepare))

    def prepared(self, prepare: Callable[[], None] = lambda: None) -> Callable[[], None]:
        """What the process of the command does first."""

        def both() -> None:
            if self.name == "reproduce":
                reproduce_tiny_cells(self.city)
            prepare()

        return both

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
        self.assert_finished()

    def assert_finished(self) -> None:
        """What lies there is to the bit what a calm command has written, and nothing else."""
        if self.name == "train":
            tiny_runs.assert_same(self.out, self.calm)
        elif self.name == "reproduce":
            runs = [path.name for path in self.calm.iterdir() if (path / "summary.json").exists()]
            assert len(runs) == 2, runs
            for name in runs:
                tiny_runs.assert_same(self.out / name, self.calm / name)
            assert tables(self.out) == tables(self.calm)
            found = [name for name in names(self.out) if not name.endswith(".lock")]
            assert found == names(self.calm)  # the lock of a cell that is complete is not taken
        else:
            assert content(self.out) == content(self.calm)

    def assert_whole(self) -> None:
        """Every file under its own name is as a calm command has written it."""
        if not self.out.exists():
            return
        if self.name in ("train", "reproduce"):
            for run in (self.out, *self.out.iterdir()):
                if (run / "checkpoints").exists():
                    tiny_runs.assert_readable(run)
        if self.name == "reproduce":
            for path in (*self.out.glob("*.json"), *self.out.glob("table1/*.json")):
                json.loads(path.read_bytes())
            for name in ("table.md", "plot.svg"):
                if (path := self.out / "table1" / name).exists():
                    assert path.read_bytes() == (self.calm / "table1" / name).read_bytes()
        elif self.name != "train":
            found, wanted = content(self.out), content(self.calm)
            own = {name for name in found if not is_temporary(name)}
            assert {name: found[name] for name in own} == {name: wanted[name] for name in own}


def is_temporary(name: str) -> bool:
    """Whether nobody reads a file of this name, or it stands for work that is not finished."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last.endswith((".part", ".lock")) or last == "packing.json"


def tables(out: Path) -> list[object]:
    """What `reproduce` has written, but for times."""
    records = json.loads((out / "table1" / "results.json").read_bytes())
    for record in records:
        record.pop("training_seconds", None)
    texts = [(out / "table1" / name).read_bytes() for name in ("table.md", "plot.svg")]
    return [records, *texts, names(out / "table1")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reproduce_tiny_cells(city: Path) -> None:
    """`fastass reproduce --toycity` in this process: on a tiny city, its commands in forks.

    A fork has what a process of its own would have: no descriptor but those that it is given.
    """
    from fastass.cli import reproduce
    from fastass.reproduce import toycity
    from fastass.reproduce.commands import Commands

    words = tiny_runs.train(city, Path(), "--start-steps", "0", "--steps", "2")
    flags = [word for word in words[2:] if word not in ("--out", ".", "--resume", "--plain")]
    for flag in ("--method", "--labelled"):  # each cell's own
        at = flags.index(flag)
        del flags[at : at + 2]
    flags.remove("--no-mix")
    reproduce.START_STEPS = 2
    toycity.data_flags = lambda domain, shift: flags
    toycity.held_out_source = lambda domain: str(city / "gta5")

    def run(_: Commands, words: list[str], log: IO[str], env: object, lock: tuple[int, ...]) -> int:
        child = os.fork()
        if not child:
            _fork(words, log.fileno(), lock)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    Commands.run = run  # type: ignore[assignment,method-assign]


def _fork(words: list[str], output: int, kept: tuple[int, ...]) -> None:
    from fastass.cli.main import main

    code = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        for descriptor in range(3, 256):
            if descriptor not in kept:
                try:
                    os.close(descriptor)
                except OSError:
                    continue
        code = main(words)
    finally:
        os._exit(code)


def content(folder: Path) -> dict[str, str]:
    """File name → digest, of a folder and those in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Change(NamedTuple):
    """number: 1 for the first. event: `open` (to write), `os.fsync`, or one of CHANGING.

    path: None of a descriptor.
    """

    number: int
    event: str
    path: str | None


def watch_changes(folder: Path, before: Callable[[Change], None]) -> None:
    """Call `before` ahead of every change under `folder`, in every thread, until the process ends.

    It may raise OSError: the change then fails with it.
    """
    number, root, fsync = 0, str(folder), os.fsync

    def change(event: str, path: str | None) -> None:
        nonlocal number
        number += 1
        before(Change(number, event, path))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
        elif event not in CHANGING:
            return
        path = arguments[1] if event == "os.symlink" else arguments[0]
        if isinstance(path, int):
            return
        text = os.fsdecode(path)
        if text.startswith(root) or not os.path.isabs(text):  # rmtree names entries alone
            change(event, text)

    def counted(fd: Any) -> None:
        change("os.fsync", None)
        fsync(fd)

    os.fsync = counted  # raises no audit event
    sys.addaudithook(hook)
