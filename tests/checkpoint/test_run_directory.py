"""Who may write a run directory, what is removed from it, and how it travels.

Looked for the kinds:
"two writers": train (one process, ranks, orphans of a killed launcher, a requeued job, the thread
that saves), reproduce (its cells and starts, parts), predict and export (a lock in DIR, a temporary
name of its own), pack and ToyCity (test_two_processes.py).
"deleting without proof": every rmtree, unlink and replace of the package (`remove_run`,
`remove_checkpoint`, `export`, the aside names of checkpoints).
"links and absolute paths": every symlink_to, resolve, abspath and relative default (pointers, data
roots, labelled_list, init, ToyCity's directory).
"a failed start leaves a run": what `train` checks only after `make_run`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_runs
from child import environment

from fastass.checkpoint import run_lock
from fastass.checkpoint.files import find_checkpoint, read_state
from fastass.checkpoint.own_files import MARK, is_marked
from fastass.checkpoint.pointers import list_checkpoints
from fastass.checkpoint.run_directory import inspect_run
from fastass.cli.main import main
from fastass.errors import UserError

OLD_LINKS = ("last", "best", "start")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.city(tmp_path_factory.mktemp("tiny") / "city")


@pytest.fixture(scope="module")
def calm(tiny_city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end. Not to be changed."""
    run = tmp_path_factory.mktemp("calm") / "run"
    assert main(tiny_runs.train(tiny_city, run)) == 0
    return run


@pytest.fixture
def half(tiny_city: Path, tmp_path: Path) -> Path:
    """A run that was stopped at step 4 of 6."""
    run = tmp_path / "half"
    assert main(tiny_runs.train(tiny_city, run, "--stop-at", "4")) == 0
    return run


def fresh(words: list[str]) -> list[str]:
    return [word for word in words if word != "--resume"]


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


# The lock -----------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from fastass.checkpoint.run_lock import locked_run
with locked_run(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_trains_at_a_time(
    half: Path, tiny_city: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastass.training.run.PATIENCE", 0.3)
    words = tiny_runs.train(tiny_city, half)
    process = holder(half)
    before = {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    for each in (words, [*fresh(words), "--overwrite"], [*words, "--stop-at", "5"]):
        message = error_of(each, capsys)
        assert f"{half}: process {process.pid} on " in message
        assert "is training there" in message
    assert before == {path: path.read_bytes() for path in half.rglob("*") if path.is_file()}
    process.kill()  # the lock dies with its holder
    process.communicate()
    assert main([*words, "--stop-at", "5"]) == 0
    assert not (half / run_lock.LOCK).exists()


def test_a_resumed_run_waits_for_its_predecessor_to_end(half: Path) -> None:
    process = holder(half)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(UserError, match="training there"), run_lock.locked_run(half, print):
        pass
    os.kill(process.pid, signal.SIGCONT)
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"]).wait()
    with run_lock.locked_run(half, print, patience=20):
        assert time.monotonic() - began < 20
    process.communicate()


def test_the_lock_leaves_no_directory_behind(tmp_path: Path) -> None:
    with run_lock.locked_run(tmp_path / "a" / "b", print):
        assert (tmp_path / "a" / "b" / run_lock.LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    lines: list[str] = []
    with run_lock.locked_run(tmp_path / "run", lines.append):
        pass
    assert "no locks (Operation not supported); make sure that only one" in lines[0]


def test_two_at_once_never_mix(tiny_city: Path, calm: Path, tmp_path: Path) -> None:
    """A resumed run, and one of another seed that wants its directory: one of them is refused."""
    run = tmp_path / "run"
    words = tiny_runs.train(tiny_city, run)
    assert main([*words, "--stop-at", "2"]) == 0
    other = [*fresh(words), "--seed", "7", "--overwrite"]
    command = [sys.executable, "-m", "fastass"]
    options = {"env": environment(OMP_NUM_THREADS="1"), "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, *each], **options) for each in (words, other)]  # type: ignore[call-overload]
    errors = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    assert "Traceback" not in "".join(errors)
    assert codes in ([0, 2], [2, 0], [0, 0], [2, 2]), errors
    seed = json.loads((run / "summary.json").read_text())["seed"] if 0 in codes else None
    if seed == 0:
        tiny_runs.assert_same(run, calm)
    elif seed == 7:
        straight = tmp_path / "straight"
        assert main([*fresh(tiny_runs.train(tiny_city, straight)), "--seed", "7"]) == 0
        tiny_runs.assert_same(run, straight)


# Ownership ----------------------------------------------------------------------------------------


def test_files_of_others_are_never_removed(half: Path, tiny_city: Path) -> None:
    assert is_marked(half)
    step = list_checkpoints(half)[-1]
    mine = [
        half / "thesis.txt", half / "checkpoints" / "mine.pth", step / "notes.txt",
        half / "examples" / "holiday.jpg", half / "tensorboard" / "layout.json",
        half / "checkpoints" / "step-1" / "x", half / "logs" / "x.log",
    ]  # fmt: skip
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("years of work")
    words = [*fresh(tiny_runs.train(tiny_city, half)), "--overwrite"]
    assert main(words) == 0
    found = [path for path in half.rglob("*") if path.is_file()]
    kept = [path for path in found if path.read_bytes() == b"years of work"]
    assert {path.name for path in kept} == {path.name for path in mine}
    assert len(kept) == len(mine)
    assert json.loads((half / "summary.json").read_text())["steps"] == 6


def test_a_directory_of_another_tool_is_refused(
    tiny_city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "theirs"
    (folder / "checkpoints").mkdir(parents=True)
    for config in ("steps: 5\n", "model: resnet\nlr: 3\n"):
        (folder / "config.yaml").write_text(config)
        (folder / "checkpoints" / "mine.pth").write_text("weights")
        for flag in ("--overwrite", "--resume", "--plain"):
            words = [*fresh(tiny_runs.train(tiny_city, folder)), flag]
            assert "is not a run of fastass" in error_of(words, capsys)
        assert {path.name for path in folder.rglob("*")} == {
            "config.yaml", "checkpoints", "mine.pth",
        }  # fmt: skip
    (folder / MARK).write_text('{"kind": "book"}')
    assert "is not a run of fastass" in error_of(words, capsys)
    file = tmp_path / "file"
    file.write_text("x")
    assert "not a directory" in error_of(tiny_runs.train(tiny_city, file), capsys)


def earlier(run: Path, copy: Path) -> Path:
    """The run as an earlier version left it: links, relative; no mark, no fingerprints."""
    shutil.copytree(run, copy)
    for name in OLD_LINKS:
        if (copy / name).exists():
            checkpoint = find_checkpoint(copy / name).name
            (copy / name).unlink()
            (copy / name).symlink_to(f"checkpoints/{checkpoint}")
    for name in (MARK, "inputs.json"):
        (copy / name).unlink()
    return copy


def test_a_run_of_an_earlier_version_is_resumed_and_not_overwritten(
    half: Path, calm: Path, tiny_city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = earlier(half, tmp_path / "old")
    words = fresh(tiny_runs.train(tiny_city, old))
    message = error_of([*words, "--overwrite"], capsys)
    assert "without the mark" in message
    assert f"rm -r {old}" in message
    assert "a run is there already" in error_of(words, capsys)
    assert main(["eval", str(old / "last"), "--data", str(tiny_city / "cityscapes")]) == 0
    assert main([*words, "--resume"]) == 0
    tiny_runs.assert_same(old, calm)
    assert is_marked(old)


# Portable -----------------------------------------------------------------------------------------


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def followed(run: Path, to: Path) -> Path:
    """`cp -rL` of a run with links."""
    shutil.copytree(earlier(run, to.with_name("links")), to, symlinks=False)
    return to


def without_pointers(run: Path, to: Path) -> Path:
    """What a store without links gives back."""
    for name in OLD_LINKS:
        (copied(run, to) if name == "last" else to).joinpath(name).unlink(missing_ok=True)
    return to


@pytest.mark.parametrize("copy", [copied, followed, without_pointers, earlier])
def test_a_copied_run_goes_on(
    copy: Callable[[Path, Path], Path], half: Path, calm: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = copy(half, tmp_path / "elsewhere" / "run") if copy is not followed else None
    if run is None:
        (tmp_path / "elsewhere").mkdir()
        run = followed(half, tmp_path / "elsewhere" / "run")
    shutil.rmtree(half)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_checkpoint(run)
    assert main(["train", "--out", "run", "--resume", "--plain"]) == 0
    tiny_runs.assert_same(run, calm)
    assert all((run / name).is_file() and not (run / name).is_symlink() for name in OLD_LINKS)


def test_data_may_lie_elsewhere(
    half: Path, calm: Path, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    moved = tmp_path / "moved"
    shutil.copytree(tiny_city, moved)
    monkeypatch.chdir(tmp_path)
    roots = ["--data-source", "moved/gta5", "--data-target", "moved/cityscapes"]
    again = ["train", "--out", str(half), "--resume", "--plain"]
    image = next((moved / "gta5" / "images").iterdir())
    for folder in ("images", "labels"):
        shutil.copy(moved / "gta5" / folder / image.name, moved / "gta5" / folder / "99999.png")
    message = error_of([*again, *roots], capsys)
    assert "the source images are not those of the run (3 → 4 images)" in message
    for folder in ("images", "labels"):
        (moved / "gta5" / folder / "99999.png").unlink()
    assert main([*again, *roots]) == 0
    tiny_runs.assert_same(half, calm)
    assert find_checkpoint(half / "last")


def test_nothing_is_generated_where_the_data_are_gone(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = half / "config.yaml"
    text = config.read_text()
    start = text.index("source: /")
    config.write_text(text[:start] + "source: /nowhere/gta5" + text[text.index("\n", start) :])
    for more in (["toycity", *tiny_runs.TINY], ["--plain"]):
        message = error_of(["train", *more, "--out", str(half), "--resume"], capsys)
        assert "source data /nowhere/gta5 is not there; give --data-source" in message
    assert not (tmp_path / "data").exists()


def test_paths_are_saved_absolute(
    tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_city)
    names = sorted(p.name for p in (tiny_city / "cityscapes" / "leftImg8bit" / "train").rglob("*"))
    assert names
    words = [*tiny_runs.TINY, "--data-source", "gta5", "--data-target", "cityscapes"]
    run = tmp_path / "run"
    assert main(["train", "toycity", *words, "--out", str(run), "--stop-at", "1"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out", str(run), "--resume", "--plain", "--stop-at", "2"]) == 0
    assert f"source: {tiny_city}/gta5" in (run / "config.yaml").read_text()


# Starts that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["label", "val", "loader"])
def test_a_failed_start_leaves_nothing(
    kind: str, tiny_city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    city, run = tmp_path / "city", tmp_path / "runs" / "run"
    shutil.copytree(tiny_city, city)
    words = fresh(tiny_runs.train(city, run))
    more: list[str] = []
    if kind == "loader":
        for name in ("nvidia.dali", "fastass.pipelines.loaders.dali"):  # another test may have it
            monkeypatch.setitem(sys.modules, name, None)
        more = ["--loader", "dali"]
    else:
        where = "gta5/labels" if kind == "label" else "cityscapes/gtFine/val"
        for path in (city / where).rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])
    assert error_of([*words, *more], capsys)
    assert not run.parent.exists()


def test_an_empty_run_is_begun_again(
    tiny_city: Path, calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first checkpoint: the corrected command needs no flag."""
    run = tmp_path / "run"
    words = fresh(tiny_runs.train(tiny_city, run))
    assert main([*words, "--stop-at", "1"]) == 0
    shutil.rmtree(run / "checkpoints")
    assert not inspect_run(run, resume=False, overwrite=False)
    assert main(words) == 0
    tiny_runs.assert_same(run, calm)
    shutil.rmtree(run / "checkpoints")  # its results are something to lose
    with pytest.raises(UserError, match="a run is there already"):
        inspect_run(run, resume=False, overwrite=False)


def test_saved_before_evaluated(
    tiny_city: Path, calm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of the start, at an evaluation in between and at the end; looked at every `evaluate`."""
    monkeypatch.setattr("fastass.training.run._read_first", lambda *arguments: None)
    city, run = tmp_path / "city", tmp_path / "run"
    shutil.copytree(tiny_city, city)
    image = sorted((city / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))[1]
    data = image.read_bytes()
    rare = ("--save-every", "1000")
    for step in (2, 4, 6):
        image.write_bytes(data[:200])
        message = error_of(tiny_runs.train(city, run, *rare), capsys)
        assert image.name in message
        assert f"the last good checkpoint is {run / 'checkpoints'}/step-{step:08d}" in message
        assert read_state(find_checkpoint(run / "last"))["step"] == step
        image.write_bytes(data)
        if step < 6:  # goes on to the next evaluation, which meets the damage
            stop = ("--stop-at", str(step + 1))
            assert main(tiny_runs.train(city, run, *rare, *stop)) == 0
    assert main(tiny_runs.train(city, run)) == 0
    tiny_runs.assert_same(run, calm)
