"""The small files of a run directory, and when it may be begun, resumed or overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastass.checkpoint.own_files import CONFIG, INPUTS, LABELLED, MARK, METRICS, mark_text
from fastass.checkpoint.pointers import MODEL
from fastass.checkpoint.run_directory import (
    RunDirectory,
    adopt_run,
    has_checkpoint,
    inspect_run,
    make_run,
    versions,
)
from fastass.config.schema import Config
from fastass.config.text import from_yaml, to_yaml
from fastass.errors import UserError


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / METRICS).read_text().splitlines()]


def test_one_rank_writes(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    run = RunDirectory(tmp_path, also=told.append)
    for step in (1, 2):
        run.log({"step": step})
    assert records(tmp_path) == told == [{"step": 1}, {"step": 2}]
    run.write("a.txt", "old")
    run.write("a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    silent = RunDirectory(tmp_path, writes=False, also=told.append)
    silent.log({"step": 3})
    silent.write("b.txt", "x")
    assert len(told) == len(records(tmp_path)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", METRICS]


def test_without_a_listener_a_record_is_only_written(tmp_path: Path) -> None:
    RunDirectory(tmp_path).log({"step": 1})
    assert records(tmp_path) == [{"step": 1}]


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS).mkdir()
    with pytest.raises(UserError, match=rf"{METRICS}: can't write: Is a directory"):
        RunDirectory(tmp_path).log({"step": 1})
    with pytest.raises(UserError, match=rf"{METRICS}: can't write: Is a directory"):
        RunDirectory(tmp_path).forget_after(1)


def test_what_will_be_written_again_is_forgotten(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.forget_after(3)
    assert not (tmp_path / METRICS).exists()
    lines: list[dict[str, Any]] = [
        {"step": step, kind: {}} for step in (2, 3, 4) for kind in ("terms", "eval")
    ]
    (tmp_path / METRICS).write_bytes(b'{"step": 1, "ev\n')
    run.log(lines[0])
    run.forget_after(5)  # what is damaged goes, what comes after it stays
    for line in lines[1:]:
        run.log(line)
    before = (tmp_path / METRICS).read_bytes()
    with open(tmp_path / METRICS, "ab") as file:
        file.write(b'\xff\n3\n{"terms": {}}\n' + b"[" * 100_000 + b'\n{"step": 1, "ev')
    run.forget_after(5)
    assert (tmp_path / METRICS).read_bytes() == before
    run.forget_after(3, evaluated=[3])
    assert records(tmp_path) == lines[:4]
    run.forget_after(3)
    assert records(tmp_path) == lines[:3]
    run.forget_after(2, evaluated=[2])
    assert records(tmp_path) == lines[:2]


def marked(path: Path) -> Path:
    """A run with something to lose."""
    (path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (path / "checkpoints" / "step-00000001" / MODEL).touch()
    (path / CONFIG).write_text(to_yaml(Config()))
    (path / MARK).write_text(mark_text())
    return path


def inspected(path: Path, resume: bool = False, overwrite: bool = False) -> bool:
    return inspect_run(path, resume=resume, overwrite=overwrite)


def test_a_run_with_something_to_lose_needs_a_word(tmp_path: Path) -> None:
    run = marked(tmp_path / "run")
    assert has_checkpoint(run)
    with pytest.raises(UserError, match="a run is there already; use --resume, --overwrite or an"):
        inspected(run)
    assert inspected(run, resume=True)
    assert not inspected(run, overwrite=True)


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (True, False), (False, True)])
def test_where_nothing_is_lost_a_run_is_begun(
    tmp_path: Path, resume: bool, overwrite: bool
) -> None:
    run = tmp_path / "run"
    assert not inspected(run, resume, overwrite)
    run.mkdir()
    assert not inspected(run, resume, overwrite)
    (run / LABELLED).touch()  # killed before the configuration was written
    assert not inspected(run, resume, overwrite)
    (run / CONFIG).write_text(to_yaml(Config()))
    (run / MARK).write_text(mark_text())
    assert not inspected(run, resume, overwrite)
    assert not has_checkpoint(run)


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (True, False), (False, True)])
def test_what_is_no_run_is_refused(tmp_path: Path, resume: bool, overwrite: bool) -> None:
    file, link, theirs = (tmp_path / name for name in ("file", "link", "theirs"))
    file.touch()
    link.symlink_to("nowhere")
    for path in (file, link):
        with pytest.raises(UserError, match="exists and is not a directory; choose another --out"):
            inspected(path, resume, overwrite)
    theirs.mkdir()
    (theirs / "thesis.txt").touch()
    with pytest.raises(UserError, match="is not a run of fastass; choose another --out"):
        inspected(theirs, resume, overwrite)
    with pytest.raises(UserError, match="is not a run of fastass; choose another --out"):
        make_run(theirs, Config(), (), {})
    assert [path.name for path in theirs.iterdir()] == ["thesis.txt"]


def test_a_run_of_an_earlier_version(tmp_path: Path) -> None:
    run = marked(tmp_path / "run")
    (run / MARK).unlink()
    assert inspected(run, resume=True)
    with pytest.raises(UserError, match="a run is there already"):
        inspected(run)
    with pytest.raises(UserError, match=rf"without the mark {MARK}.*rm -r {run}$"):
        inspected(run, overwrite=True)
    adopt_run(run, {"source": 1})
    assert (run / MARK).read_text() == mark_text()
    assert (run / INPUTS).read_text() == '{\n  "source": 1\n}\n'
    for name in (MARK, INPUTS):
        (run / name).write_text('{"kind": "run"}')
    adopt_run(run, {"source": 2})
    for name in (MARK, INPUTS):
        assert (run / name).read_text() == '{"kind": "run"}'


def test_a_fresh_run_has_its_files_and_nothing_of_the_one_before(tmp_path: Path) -> None:
    run = marked(tmp_path / "a" / "run")
    (run / "mine.txt").write_text("mine")
    config = Config(seed=7)
    made = make_run(run, config, ["x", "y z"], {"source": {"images": 3}})
    assert made.path == run
    assert made.writes
    assert (run / MARK).read_text() == mark_text()
    assert (run / LABELLED).read_text() == "x\ny z\n"
    text = (run / INPUTS).read_text()
    assert json.loads(text) == {"source": {"images": 3}}
    assert text.endswith("}\n")
    assert text.startswith('{\n  "source": {\n    "images": 3\n')
    assert text.count("\n") == 5
    assert from_yaml(run / CONFIG) == config
    assert sorted(path.name for path in run.iterdir()) == sorted(
        [MARK, LABELLED, INPUTS, CONFIG, "mine.txt"]
    )
    make_run(tmp_path / "b" / "c", config, [], {})
    assert from_yaml(tmp_path / "b" / "c" / CONFIG) == config


def test_a_run_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run: can't write: Not a directory"):
        make_run(tmp_path / "file" / "run", Config(), (), {})


def test_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = versions()
    assert list(found)[:3] == ["python", "fastass", "torch"]
    assert {"numpy", "pillow"} <= set(found)

    def version(name: str) -> str:
        if name in ("torch", "triton"):
            raise run_directory.PackageNotFoundError
        return "1"

    from fastass.checkpoint import run_directory

    monkeypatch.setattr(run_directory, "version", version)
    assert {"numpy", "nvidia-dali-cuda130", "pillow", "fastass", "python"} == set(versions())
