"""Checkpoints: atomic, retained as promised, and every damage named."""

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastass import checkpoint
from fastass.errors import UserError


def module(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.ModuleDict({"generator": nn.Linear(2, width), "other": nn.Linear(2, 2)})


def save(run: Path, step: int, best: bool = False, width: int = 3) -> Path:
    texts = {checkpoint.CONFIG: "steps: 1\n", checkpoint.CLASSES: "{}"}
    return checkpoint.save(run, step, module(width), {"engine": {}, "position": {}}, texts, best)


def test_last_best_and_start_are_kept(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step, best=step == 2)
        if step == 1:
            checkpoint.keep_as(tmp_path, "start")
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in (1, 2, 5, 6)]
    assert checkpoint.read_state(checkpoint.find(tmp_path / "last"))["step"] == 6
    assert checkpoint.find(tmp_path) == tmp_path / "best"
    assert checkpoint.read_state(tmp_path / "start")["step"] == 1
    assert not os.path.isabs(os.readlink(tmp_path / "last"))


def test_weights_come_back_equal(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    other = module().requires_grad_(False)
    for p in other.parameters():
        p.zero_()
    checkpoint.load_into(other, checkpoint.read_weights(path), path)
    for a, b in zip(module().parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("refused", [checkpoint.MODEL, checkpoint.STATE, checkpoint.CONFIG])
def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    save(tmp_path, 1)
    write = checkpoint._write

    def full(path: Path, data: bytes) -> None:
        if path.name == refused:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(UserError, match=r"step 2: No space left on device; kept: .*00000001"):
        save(tmp_path, 2)
    assert checkpoint.read_state(checkpoint.find(tmp_path / "last"))["step"] == 1
    checkpoint.read_weights(checkpoint.find(tmp_path / "last"))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_another_architecture_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1, width=4)
    with pytest.raises(UserError, match=r"another architecture: generator.weight is \(4, 2\)"):
        checkpoint.load_into(module(), checkpoint.read_weights(path), path)
    with pytest.raises(UserError, match=r"another architecture: it lacks 0.weight"):
        checkpoint.load_into(nn.Sequential(nn.Linear(2, 2)), checkpoint.read_weights(path), path)


def test_truncated_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name, read in (
        (checkpoint.MODEL, checkpoint.read_weights),
        (checkpoint.STATE, checkpoint.read_state),
    ):
        data = (path / name).read_bytes()
        for length in (0, 10, len(data) // 2):
            (path / name).write_bytes(data[:length])
            with pytest.raises(UserError, match=name):
                read(path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("echo code ran",))


def test_code_in_a_pickle_does_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path, 1)
    (path / checkpoint.STATE).write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(UserError, match="not safe"):
        checkpoint.read_state(path)
    torch.save({"step": 1, "evil": _Evil()}, path / checkpoint.STATE)
    with pytest.raises(UserError, match="not safe"):
        checkpoint.read_state(path)
    assert "code ran" not in capfd.readouterr().out


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint or run"):
        checkpoint.find(tmp_path / "absent")
    with pytest.raises(UserError, match="neither a checkpoint"):
        checkpoint.find(tmp_path)
