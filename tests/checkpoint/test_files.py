"""Checkpoints: atomic, retained as promised, and every damage named."""

import errno
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import module, save
from torch import nn

from fastass.checkpoint import files
from fastass.checkpoint.async_writer import AsyncWriter
from fastass.checkpoint.files import (
    find_checkpoint,
    load_into,
    newest_checkpoint,
    read_state,
    read_weights,
)
from fastass.checkpoint.pointers import CHECKSUMS, CONFIG, MODEL, STATE, point
from fastass.errors import UserError


def test_last_best_and_start_are_kept(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step, *{1: ["start"], 2: ["best"]}.get(step, []))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in (1, 2, 5, 6)]
    assert read_state(find_checkpoint(tmp_path / "last"))["step"] == 6
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "best")
    assert read_state(find_checkpoint(tmp_path / "best"))["step"] == 2
    assert read_state(find_checkpoint(tmp_path / "start"))["step"] == 1
    assert (tmp_path / "last").read_text() == "checkpoints/step-00000006\n"


def test_weights_come_back_equal(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    other = module().requires_grad_(False)
    for p in other.parameters():
        p.zero_()
    load_into(other, read_weights(path), path)
    for a, b in zip(module().parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("refused", [MODEL, STATE, CONFIG])
def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    save(tmp_path, 1)
    write = files.write_synced

    def full(path: Path, data: bytes) -> None:
        if path.name == refused:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(UserError, match=r"step 2: No space left on device; kept: .*00000001"):
        save(tmp_path, 2)
    assert read_state(find_checkpoint(tmp_path / "last"))["step"] == 1
    read_weights(find_checkpoint(tmp_path / "last"))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_another_architecture_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1, width=4)
    with pytest.raises(UserError, match=r"another architecture: generator.weight is \(4, 2\)"):
        load_into(module(), read_weights(path), path)
    with pytest.raises(UserError, match=r"another architecture: it lacks 0.weight"):
        load_into(nn.Sequential(nn.Linear(2, 2)), read_weights(path), path)


def test_truncated_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name, read in (
        (MODEL, read_weights),
        (STATE, read_state),
    ):
        data = (path / name).read_bytes()
        for length in (0, 10, len(data) // 2):
            (path / name).write_bytes(data[:length])
            with pytest.raises(UserError, match=name):
                read(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name, read in (
        (MODEL, read_weights),
        (STATE, read_state),
    ):
        data = bytearray((path / name).read_bytes())
        data[-7] ^= 4
        (path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: damaged: its checksum"):
            read(path)


def test_the_newest_that_can_be_read_is_found(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    warnings: list[str] = []
    assert newest_checkpoint(tmp_path, warnings.append).path == second
    (second / STATE).write_bytes(b"")
    assert newest_checkpoint(tmp_path, warnings.append).path == first
    assert warnings == [
        f"{second / STATE}: damaged: its checksum differs from checksums.json; "
        "falling back to the checkpoint before it"
    ]
    shutil.rmtree(first)
    with pytest.raises(UserError, match="no checkpoint can be read; start anew"):
        newest_checkpoint(tmp_path, warnings.append)


def test_a_kill_while_a_step_is_saved_again(tmp_path: Path) -> None:
    """The first checkpoint of the step is put back."""
    first = save(tmp_path, 1)
    first.rename(first.with_name(f"{first.name}~"))
    assert newest_checkpoint(tmp_path, print).path == first
    assert find_checkpoint(tmp_path / "last")
    first.with_name(f"{first.name}~").mkdir()  # killed after the second had taken its place
    assert newest_checkpoint(tmp_path, print).path == first
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [first.name]


def test_links_that_a_kill_left_behind_are_set(tmp_path: Path) -> None:
    save(tmp_path, 1, "best")
    second = save(tmp_path, 2, "best")
    for name in ("last", "best"):
        point(tmp_path, name, tmp_path / "checkpoints" / "step-00000001")
    assert newest_checkpoint(tmp_path, print).path == second
    for name in ("last", "best"):
        assert find_checkpoint(tmp_path / name) == second


def test_saving_in_the_background_keeps_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although training goes on before a byte is written."""
    changed = threading.Event()

    def write_late(run: Path, *arguments: Any) -> Path:
        assert changed.wait(20)
        return files.save_checkpoint(run, *arguments)

    monkeypatch.setattr("fastass.checkpoint.async_writer.save_checkpoint", write_late)
    saver, net = AsyncWriter(tmp_path, background=True), module()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    moments = [torch.ones(3), (torch.zeros(2), 1.5)]
    saver.save(1, net, {"engine": {"x": moments}}, {}, ("last",))
    with torch.no_grad():
        for tensor in (*net.parameters(), moments[0], moments[1][0]):  # type: ignore[index]
            tensor.fill_(-1)
    changed.set()
    saver.wait()
    checkpoint = find_checkpoint(tmp_path / "last")
    weights = read_weights(checkpoint)
    assert all(torch.equal(weights[k], v) for k, v in before.items())
    first, (second, number) = read_state(checkpoint)["engine"]["x"]
    assert (first.tolist(), second.tolist(), number) == ([1, 1, 1], [0, 0], 1.5)


def test_the_disk_s_refusal_is_told_at_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "write_synced", full)
    saver = AsyncWriter(tmp_path, background=True)
    saver.save(1, module(), {}, {}, ("last",))
    with pytest.raises(UserError, match="step 1: No space left on device"):
        saver.save(2, module(), {}, {}, ("last",))
    saver.wait()


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("echo code ran",))


def test_code_in_a_pickle_does_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path, 1)
    (path / CHECKSUMS).unlink()  # who writes a hostile file gives it a checksum
    (path / STATE).write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(UserError, match="not safe"):
        read_state(path)
    torch.save({"step": 1, "evil": _Evil()}, path / STATE)
    with pytest.raises(UserError, match="not safe"):
        read_state(path)
    assert "code ran" not in capfd.readouterr().out


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint or run"):
        find_checkpoint(tmp_path / "absent")
    with pytest.raises(UserError, match="neither a checkpoint"):
        find_checkpoint(tmp_path)
    for name in ("model.onnx", "model.pt2"):
        (tmp_path / name).touch()
        with pytest.raises(UserError, match=f"{name}: an export for other programs; fastass reads"):
            find_checkpoint(tmp_path / name)


def test_files_that_are_missing_or_unreadable(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name, read in ((MODEL, read_weights), (STATE, read_state)):
        (path / name).unlink()
        with pytest.raises(UserError, match=rf"not a checkpoint: {name} is missing"):
            read(path)
        (path / name).mkdir()
        with pytest.raises(UserError, match=rf"{name}: can't be read: Is a directory"):
            read(path)


def test_a_file_without_checksum_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / CHECKSUMS).write_text("{}")
    assert read_state(path)["step"] == 1
    (path / CHECKSUMS).unlink()
    assert set(read_weights(path)) == set(module().state_dict())


def test_a_state_that_is_none(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / CHECKSUMS).unlink()
    torch.save([1], path / STATE)
    with pytest.raises(UserError, match=rf"{STATE}: damaged: it holds a list, no state"):
        read_state(path)
    (path / MODEL).write_bytes(b"x" * 64)
    with pytest.raises(UserError, match=rf"{MODEL}: damaged: ") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    assert files._first_line(ValueError()) == "ValueError"
    assert files._first_line(ValueError("\n a\nb\n")) == "a"


def test_the_first_name_that_does_not_fit(tmp_path: Path) -> None:
    small, own = nn.ModuleDict({"a": nn.Linear(1, 1)}), nn.ModuleDict({"a": nn.Linear(1, 1)})
    own["b"] = nn.Linear(1, 1)
    where = tmp_path / "x"
    files.check_fit(own, own.state_dict(), where)
    with pytest.raises(UserError, match=r"another architecture: it lacks b\.weight$"):
        files.check_fit(own, small.state_dict(), where)
    with pytest.raises(UserError, match=r"architecture: it has an unknown b\.weight$"):
        files.check_fit(small, own.state_dict(), where)
    teacher = nn.ModuleDict({"a": nn.Linear(1, 1), "teacher": nn.Linear(1, 1)})
    with pytest.raises(UserError, match=r"has a teacher, and this run has none; give --mix$"):
        files.check_fit(small, teacher.state_dict(), where)
    with pytest.raises(UserError, match=r"has no teacher, which --mix needs; leave out --mix, or"):
        files.check_fit(teacher, small.state_dict(), where)
    files.check_fit(teacher, teacher.state_dict(), where)
