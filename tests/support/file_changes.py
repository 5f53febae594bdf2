"""Sees, and can disturb, every change that this process makes to the files of a folder."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

REMOVING = ("os.remove", "os.rmdir")
CHANGING = ("os.mkdir", "os.rename", "os.symlink", *REMOVING)


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
