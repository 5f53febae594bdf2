"""RUN/last, RUN/best, RUN/start: small files that name a checkpoint of the run.

RUN/last holds the line `checkpoints/step-00000500`, so a run can be copied to any file system and
to an object store. Runs of earlier versions have symbolic links instead, and their copies by
`cp -L` have whole directories; both are read, and become small files when the run goes on.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastass.pipelines.durable import write_durably

LAST, BEST, START = "last", "best", "start"
POINTERS = (LAST, BEST, START)
FOLDER = "checkpoints"
MODEL, STATE, CONFIG, CLASSES = "model.safetensors", "state.pt", "config.yaml", "classes.json"
CHECKSUMS = "checksums.json"
FILES = (MODEL, STATE, CONFIG, CLASSES, CHECKSUMS)  # of a checkpoint
_NAME = re.compile(r"step-\d{8,}")


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / FOLDER / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = (p for p in _entries(run / FOLDER) if _NAME.fullmatch(p.name) and p.is_dir())
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def target(run: Path, name: str) -> Path | None:
    """The checkpoint that RUN/name points to; None if there is no such pointer or checkpoint."""
    path = run / name
    if path.is_symlink():
        linked = path.resolve()
        inside = linked.parent == (run / FOLDER).resolve() and linked.is_dir()
        return run / FOLDER / linked.name if inside else None
    if path.is_dir():
        return _original(run, path)
    try:
        with open(path, "rb") as file:
            text = file.read(200).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    folder, _, step = text.partition("/")
    if folder != FOLDER or not _NAME.fullmatch(step):
        return None
    checkpoint = run / FOLDER / step
    return checkpoint if checkpoint.is_dir() else None


def _original(run: Path, copy: Path) -> Path | None:
    """The checkpoint that a whole directory in place of a link is the copy of, else the copy."""
    with contextlib.suppress(OSError):
        sums = (copy / CHECKSUMS).read_bytes()
        for path in list_checkpoints(run):
            if (path / CHECKSUMS).is_file() and (path / CHECKSUMS).read_bytes() == sums:
                return path
    return copy if (copy / MODEL).is_file() else None


def point(run: Path, name: str, checkpoint: Path) -> None:
    """Make RUN/name point to a checkpoint; after a kill it points to the old or to the new one.

    Raises OSError if it can't be written.
    """
    path = run / name
    if path.is_dir() and not path.is_symlink():
        remove_checkpoint(path)
    text = f"{FOLDER}/{checkpoint.name}\n"
    write_durably(path, text.encode(), path.with_name(f".{name}.tmp"))


def follow(path: Path) -> Path:
    """The checkpoint of RUN/last, RUN/best or RUN/start; any other path as it is."""
    if path.name in POINTERS:
        return target(path.parent, path.name) or path
    return path


def remove_checkpoint(path: Path) -> bool:
    """Remove the files that fastass wrote into a checkpoint, and the directory if nothing is left.

    Returns whether nothing is left.
    """
    for name in FILES:
        for file in (path / name, path / f"{name}.part"):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
    try:
        path.rmdir()
    except OSError:
        return not path.exists()
    return True


def drop(path: Path) -> None:
    """Remove a checkpoint: at no moment is half of it there under its name.

    Files of others in it stay, in a directory whose name ends in `.kept`.
    """
    with contextlib.suppress(OSError):
        hidden = path.rename(path.with_name(f".{path.name}.tmp"))
        if not remove_checkpoint(hidden):
            hidden.rename(path.with_name(f"{path.name.removesuffix('~')}.kept"))


def leftovers(run: Path) -> Iterator[Path]:
    """What a kill left half written or half removed in RUN/checkpoints."""
    for path in _entries(run / FOLDER):
        if re.fullmatch(r"\.step-\d{8,}~?\.tmp", path.name) and path.is_dir():
            yield path


def replaced(run: Path) -> Iterator[Path]:
    """Checkpoints that another of their step was about to replace: `step-00000500~`."""
    for path in _entries(run / FOLDER):
        if path.name.endswith("~") and _NAME.fullmatch(path.name[:-1]):
            yield path


def remove_leftover(path: Path) -> None:
    """Remove one of `leftovers`, which nobody reads."""
    if not remove_checkpoint(path):
        with contextlib.suppress(OSError):
            shutil.move(path, path.with_name(f"{path.name.strip('.').removesuffix('.tmp')}.kept"))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
