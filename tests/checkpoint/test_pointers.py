"""RUN/last, RUN/best, RUN/start, and what of a checkpoint is removed."""

import os
import shutil
from pathlib import Path

import pytest

from fastass.checkpoint.pointers import (
    CHECKSUMS,
    FILES,
    MODEL,
    STATE,
    checkpoint_path,
    drop,
    follow,
    leftovers,
    list_checkpoints,
    point,
    remove_checkpoint,
    remove_leftover,
    replaced,
    target,
)


def checkpoint(run: Path, step: int, name: str = "") -> Path:
    """A directory with all files of a checkpoint; its checksums differ from those of others."""
    path = checkpoint_path(run, step)
    path = path.with_name(name) if name else path
    path.mkdir(parents=True)
    for file in FILES:
        (path / file).write_text(f"{file} of {step}")
    return path


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_newest_checkpoint_is_the_first(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []
    paths = [checkpoint(tmp_path, step) for step in (99_999_999, 100_000_000, 7)]
    for name in ("step-1", "step-00000009x", "step-00000009~", ".step-00000009.tmp", "mine"):
        checkpoint(tmp_path, 9, name)
    (tmp_path / "checkpoints" / "step-00000010").write_text("a file")
    assert list_checkpoints(tmp_path) == [paths[1], paths[0], paths[2]]
    assert paths[2].name == "step-00000007"


@pytest.mark.parametrize(
    "text",
    ["", "step-00000001", "checkpoints/", "checkpoints/step-1", "checkpoints/step-00000002",
     "other/step-00000001", "/checkpoints/step-00000001", "checkpoints/step-00000001/..",
     "checkpoints/../checkpoints/step-00000001", "\0", "x" * 10_000],
)  # fmt: skip
def test_a_text_that_names_no_checkpoint(tmp_path: Path, text: str) -> None:
    path = checkpoint(tmp_path, 1)
    assert target(tmp_path, "last") is None
    (tmp_path / "last").write_text(text)
    assert target(tmp_path, "last") is None
    (tmp_path / "last").write_bytes(b"\xff")
    assert target(tmp_path, "last") is None
    (tmp_path / "last").write_text("checkpoints/step-00000001")
    assert target(tmp_path, "last") == path


def test_links_of_earlier_versions(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path, other = checkpoint(run, 1), checkpoint(tmp_path / "other", 1)
    (run / "last").symlink_to("checkpoints/step-00000001")
    (run / "best").symlink_to(other)
    (run / "start").symlink_to(path.resolve())
    assert target(run, "last") == target(run, "start") == path
    assert target(run, "best") is None
    (run / "best").unlink()
    (run / "best").symlink_to("checkpoints/step-00000009")
    assert target(run, "best") is None
    (tmp_path / "alias").symlink_to(run)
    assert target(tmp_path / "alias", "last") == tmp_path / "alias" / "checkpoints" / path.name


def test_whole_directories_in_place_of_links(tmp_path: Path) -> None:
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    shutil.copytree(first, tmp_path / "best")
    assert target(tmp_path, "best") == first
    (second / CHECKSUMS).unlink()
    assert target(tmp_path, "best") == first
    shutil.rmtree(first)
    assert target(tmp_path, "best") == tmp_path / "best"  # the only copy
    (tmp_path / "best" / CHECKSUMS).unlink()
    assert target(tmp_path, "best") == tmp_path / "best"
    (tmp_path / "best" / MODEL).unlink()
    assert target(tmp_path, "best") is None


def test_a_pointer_replaces_whatever_has_its_name(tmp_path: Path) -> None:
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    shutil.copytree(first, tmp_path / "last")
    (tmp_path / "best").symlink_to(first)
    for name in ("last", "best", "start"):
        point(tmp_path, name, second)
        assert (tmp_path / name).read_text() == "checkpoints/step-00000002\n"
        assert not (tmp_path / name).is_symlink()
    assert (first / MODEL).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best", "checkpoints", "last", "start",
    ]  # fmt: skip


def test_files_of_others_in_a_copied_pointer_stay(tmp_path: Path) -> None:
    first = checkpoint(tmp_path, 1)
    shutil.copytree(first, tmp_path / "last")
    (tmp_path / "last" / "mine").write_text("mine")
    with pytest.raises(OSError, match="irectory"):
        point(tmp_path, "last", first)
    assert (tmp_path / "last" / "mine").read_text() == "mine"


def test_only_pointers_are_followed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    point(tmp_path, "last", path)
    assert follow(tmp_path / "last") == path
    assert follow(tmp_path / "best") == tmp_path / "best"
    assert follow(path) == path
    (tmp_path / "mine").write_text("checkpoints/step-00000001")
    assert follow(tmp_path / "mine") == tmp_path / "mine"


def test_removing_tells_whether_anything_is_left(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    (path / f"{STATE}.part").write_text("half")
    assert remove_checkpoint(path)
    assert not path.exists()
    assert remove_checkpoint(path)  # it is not there
    path = checkpoint(tmp_path, 2)
    (path / "mine").write_text("mine")
    assert not remove_checkpoint(path)
    assert [file.name for file in path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["step-00000001", "step-00000001~"])
def test_what_is_dropped_is_gone_and_what_is_not_ours_is_kept(tmp_path: Path, name: str) -> None:
    drop(checkpoint(tmp_path, 1, name))
    assert names(tmp_path) == []
    path = checkpoint(tmp_path, 1, name)
    (path / "mine").write_text("mine")
    drop(path)
    assert names(tmp_path) == ["step-00000001.kept"]
    assert os.listdir(tmp_path / "checkpoints" / "step-00000001.kept") == ["mine"]
    drop(tmp_path / "checkpoints" / "absent")
    assert names(tmp_path) == ["step-00000001.kept"]


def test_what_a_kill_leaves_is_known_by_its_name(tmp_path: Path) -> None:
    assert list(leftovers(tmp_path)) == list(replaced(tmp_path)) == []
    for name in (".step-00000001.tmp", ".step-00000002~.tmp", "step-00000003~", "step-00000004"):
        checkpoint(tmp_path, 1, name)
    for name in ("~", "mine~", "step-1~", ".mine.tmp", ".step-1.tmp", "step-00000005~~"):
        checkpoint(tmp_path, 1, name)
    (tmp_path / "checkpoints" / ".step-00000006.tmp").write_text("a file")
    assert sorted(path.name for path in leftovers(tmp_path)) == [
        ".step-00000001.tmp", ".step-00000002~.tmp",
    ]  # fmt: skip
    assert [path.name for path in replaced(tmp_path)] == ["step-00000003~"]


def test_a_leftover_with_files_of_others_is_kept(tmp_path: Path) -> None:
    remove_leftover(checkpoint(tmp_path, 1, ".step-00000001.tmp"))
    assert names(tmp_path) == []
    path = checkpoint(tmp_path, 1, ".step-00000001.tmp")
    (path / "mine").write_text("mine")
    remove_leftover(path)
    assert names(tmp_path) == ["step-00000001.kept"]
