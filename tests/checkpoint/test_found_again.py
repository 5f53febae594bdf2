"""What a kill or a copy leaves of checkpoints and pointers, and how it is found again."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import save

from fastass.checkpoint import files
from fastass.checkpoint.files import find_checkpoint, newest_checkpoint, read_state, read_weights
from fastass.checkpoint.pointers import MODEL, STATE, point
from fastass.errors import UserError


def entries(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_a_step_that_is_saved_again_keeps_its_pointers(tmp_path: Path) -> None:
    save(tmp_path, 1, "best")
    save(tmp_path, 2, "start")
    path = save(tmp_path, 2, width=4)
    assert read_weights(path)["generator.weight"].shape == (4, 2)
    assert read_state(path)["links"] == ["last", "start"]
    assert read_state(find_checkpoint(tmp_path / "best"))["links"] == ["last", "best"]
    assert entries(tmp_path) == ["step-00000001", "step-00000002"]


def test_leftovers_of_a_kill_are_removed_and_a_leftover_of_the_step_is_no_obstacle(
    tmp_path: Path,
) -> None:
    for name in (".step-00000003.tmp", ".step-00000001.tmp", ".step-00000002~.tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / MODEL).write_text("half")
    save(tmp_path, 3)
    assert entries(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("saved", [0, 1])
def test_a_directory_that_cannot_be_written(tmp_path: Path, saved: int) -> None:
    for step in range(saved):
        save(tmp_path, step)
    kept = f"kept: {tmp_path / 'checkpoints' / 'step-00000000'}"
    message = rf"00000007: can't save at step 7: .*; {kept if saved else 'no earlier checkpoint'}"
    (tmp_path / "last").unlink(missing_ok=True)
    (tmp_path / "last").symlink_to("checkpoints/step-00000000")
    (tmp_path / ".last.tmp").mkdir()  # nothing can be renamed to the pointer
    with pytest.raises(UserError, match=message):
        save(tmp_path, 7)


def test_a_step_whose_replacement_fails_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, 2)

    def rename(self: Path, to: Path) -> Path:
        if self.name.endswith(".tmp") and to == path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(self, to)
        return to

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(UserError, match=f"can't save at step 2: No space left.*kept: {path}"):
            save(tmp_path, 2, width=4)
    assert read_weights(path)["generator.weight"].shape == (3, 2)
    assert entries(tmp_path) == ["step-00000002"]


def test_what_cannot_be_used_falls_back(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1, "best"), save(tmp_path, 2, "best")
    used: list[Path] = []

    def use(checkpoint: files.Checkpoint) -> None:
        used.append(checkpoint.path)
        if checkpoint.path == second:
            raise UserError("incomplete")

    warnings: list[str] = []
    assert newest_checkpoint(tmp_path, warnings.append, use).path == first
    assert used == [second, first]
    assert warnings == ["incomplete; falling back to the checkpoint before it"]
    assert find_checkpoint(tmp_path / "last") == find_checkpoint(tmp_path / "best") == first


def test_pointers_that_a_copy_has_lost_are_found(tmp_path: Path) -> None:
    paths = [save(tmp_path, step, *links) for step, links in
             enumerate((["start"], ["best"], [], []), 1)]  # fmt: skip
    (paths[2] / STATE).unlink()  # a damaged one is passed over
    for name in ("last", "best", "start"):
        (tmp_path / name).unlink()
    assert find_checkpoint(tmp_path) == paths[3]
    assert newest_checkpoint(tmp_path, print).path == paths[3]
    found = {name: find_checkpoint(tmp_path / name) for name in ("last", "best", "start")}
    assert found == {"last": paths[3], "best": paths[1], "start": paths[0]}
    point(tmp_path, "best", paths[3])
    newest_checkpoint(tmp_path, print)
    assert find_checkpoint(tmp_path / "best") == paths[3]  # it was not lost


def test_links_and_copies_become_small_files(tmp_path: Path) -> None:
    first = save(tmp_path, 1, "start", "best")
    for name in ("best", "start"):
        (tmp_path / name).unlink()
    (tmp_path / "best").symlink_to(f"checkpoints/{first.name}")
    shutil.copytree(first, tmp_path / "start")
    second = save(tmp_path, 2)
    assert newest_checkpoint(tmp_path, print).path == second
    for name in ("best", "start"):
        assert (tmp_path / name).read_text() == "checkpoints/step-00000001\n"
        assert not (tmp_path / name).is_symlink()


def test_the_only_copy_of_a_checkpoint_is_left(tmp_path: Path) -> None:
    first = save(tmp_path, 1, "start")
    (tmp_path / "start").unlink()
    first.rename(tmp_path / "start")
    save(tmp_path, 2)
    newest_checkpoint(tmp_path, print)
    assert read_state(find_checkpoint(tmp_path / "start"))["step"] == 1


@pytest.mark.parametrize(
    ("links", "found"),
    [(["best", "x", "start"], ["best", "start"]), (("last",), ["last"]), ("last", []), (3, []),
     ([["last"]], [])],
)  # fmt: skip
def test_links_of_a_foreign_state(links: Any, found: list[str]) -> None:
    assert files.links_of({"links": links}) == found
    assert files.links_of({}) == []


def test_a_checkpoint_is_found_from_its_run(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1, "best"), save(tmp_path, 2)
    assert find_checkpoint(str(tmp_path)) == find_checkpoint(first) == first
    (tmp_path / "best").unlink()
    assert find_checkpoint(tmp_path) == second
    point(tmp_path, "last", first)
    assert find_checkpoint(tmp_path) == first
    (first / MODEL).unlink()
    assert find_checkpoint(tmp_path) == second
    (tmp_path / "last").unlink()
    assert find_checkpoint(tmp_path) == second
