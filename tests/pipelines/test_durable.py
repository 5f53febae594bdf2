"""Files that are whole or absent under their own name."""

import errno
import os
from pathlib import Path
from typing import IO, Any

import pytest

from fastass.pipelines import durable


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to the disk, in order."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def counted_fsync(descriptor: int) -> None:
        events.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def counted_replace(old: Any, new: Any) -> None:
        events.append(f"rename {Path(old).name} {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", counted_fsync)
    monkeypatch.setattr(os, "replace", counted_replace)
    return events


def test_synced_then_renamed_then_the_directory_synced(tmp_path: Path, synced: list[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    durable.write_durably(folder / "a.json", b"new")
    assert synced == ["sync a.json.part", "rename a.json.part a.json", "sync run"]
    synced.clear()
    with open(folder / "b.part", "wb") as file:
        file.write(b"content")
        durable.publish(file, folder / "b")
    assert synced == ["sync b.part", "rename b.part b", "sync run"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.json": b"new",
        "b": b"content",
    }


def test_a_refusing_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def full(file: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write_durably(path, b"new", tmp_path / "a.tmp")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
