"""Two processes that write one data set at the same time.

Looked at: `pack` (a directory that is new, unfinished or finished) and ToyCity; nothing else in
pipelines/ writes. Each takes its lock before it reads or writes there; a kill frees it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import dataset_files as files
import pytest

from fastass.pipelines.errors import DataError
from fastass.pipelines.file_lock import locked
from fastass.pipelines.toycity import generate, is_complete

# Forks pairs of processes that start at once; prints what became of each pair, sorted.
PAIRS = """
import os, shutil, sys, time
from pathlib import Path
import torch
from packed_files import content
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.toycity import generate

torch.set_num_threads(1)
task, source, out, pairs = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
dataset = open_dataset(source) if task == "pack" else None

def work():
    if task == "pack":
        pack(dataset, out, (20, 12), workers=1, records_per_shard=2)
    else:
        generate(out, 1, 1, workers=1, source_size=(64, 32), target_size=(64, 32))

def child(begin):
    while time.monotonic() < begin:
        pass
    try:
        work()
    except DataError as error:
        os._exit(3 if "is packing into it" in str(error) else 4)
    except BaseException:
        os._exit(5)
    os._exit(0)

def files():
    return content(out) if task == "pack" else sorted(p.name for p in out.rglob("*"))

work()
wanted = files()
for pair in range(pairs):
    if pair % 4:  # every fourth pair finds a finished directory
        shutil.rmtree(out)
    begin = time.monotonic() + 0.02
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            child(begin)
    ends = sorted(os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children)
    assert files() == wanted, files()
    print(*ends)
"""


def pairs(tmp_path: Path, task: str, count: int) -> list[str]:
    source = files.gta5(tmp_path / "gta5", 4, (24, 16))
    command = [sys.executable, "-c", PAIRS, task, str(source), str(tmp_path / "out"), str(count)]
    helpers = str(Path(files.__file__).parent)
    path = os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_pairs_of_pack(tmp_path: Path) -> None:
    """One packs; the other is refused by name, or finds the directory finished."""
    ends = pairs(tmp_path, "pack", 20)
    assert len(ends) == 20
    assert set(ends) <= {"0 0", "0 3"}


@pytest.mark.slow
def test_many_pairs_of_pack(tmp_path: Path) -> None:
    ends = pairs(tmp_path, "pack", 300)
    assert len(ends) == 300
    assert "0 3" in ends  # they did meet; whether one came late is a matter of luck
    assert set(ends) <= {"0 0", "0 3"}


def test_pairs_of_toycity(tmp_path: Path) -> None:
    """One generates; the other waits, and finds the data set complete."""
    assert pairs(tmp_path, "toycity", 12) == ["0 0"] * 12


def test_the_lock_names_its_holder_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with locked(path, "at work in it"):
        with (
            pytest.raises(DataError, match=rf"{tmp_path}: process {os.getpid()} on .* is at work"),
            locked(path, "at work in it"),
        ):
            pass
        assert path.exists()
    assert not path.exists()
    path.write_text("left by a killed process")
    with locked(path, "at work in it"):
        pass
    assert not path.exists()


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from fastass.pipelines.file_lock import locked\n"
        "with locked(Path(sys.argv[1]), 'busy'):\n    print(1, flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    lines: list[str] = []

    def kill(line: str) -> None:
        lines.append(line)
        os.kill(holder.pid, signal.SIGKILL)

    with locked(path, "busy", wait=True, on_wait=kill):
        assert lines[0].startswith(f"{tmp_path}: process {holder.pid} on ")
        assert lines[0].endswith(" is busy; waiting for it to finish")
    holder.communicate()


def test_a_planted_link_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "toycity.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(DataError, match="cannot write ToyCity"):
        generate(tmp_path, 1, 1, workers=1)
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_refused_directory_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not empty and not a ToyCity"):
        generate(tmp_path, 1, 1, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert not is_complete(tmp_path, 1, 1)
