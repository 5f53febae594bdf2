"""Which files of a run directory are fastass's: only these are ever removed.

A directory is a run of fastass if it carries the mark, RUN/fastass.json. Runs of earlier versions
have none; their configuration and checkpoints show what they are, so they can be resumed and read,
but they are not overwritten.
"""

import contextlib
import json
import re
from importlib.metadata import version
from pathlib import Path

from fastass.checkpoint.json_file import DAMAGE
from fastass.checkpoint.pointers import (
    FOLDER,
    MODEL,
    POINTERS,
    leftovers,
    list_checkpoints,
    remove_checkpoint,
    replaced,
)
from fastass.checkpoint.run_lock import LOCK
from fastass.config.text import from_yaml
from fastass.errors import UserError
from fastass.pipelines.errors import printable

MARK, CONFIG, LABELLED, INPUTS = "fastass.json", "config.yaml", "labelled.txt", "inputs.json"
METRICS, SUMMARY, CLASS_MEANS = "metrics.jsonl", "summary.json", "class_means.json"
SHEET, EXAMPLES = "contact_sheet.png", "examples"
LOGGERS, TENSORBOARD = "loggers.json", "tensorboard"
_EXAMPLE = re.compile(r"\d+\.jpg|\d+-(truth|start|last)\.png")
_EVENTS = re.compile(r"events\.out\.tfevents\..*")
# In the order of removal: the configuration goes last.
_FILES = (LABELLED, INPUTS, METRICS, SUMMARY, SHEET, CLASS_MEANS, LOGGERS, *POINTERS)
_BEGUN = {LOCK, MARK, LABELLED, INPUTS}
_BEGUN |= {f".{name}.tmp" for name in (MARK, LABELLED, INPUTS, CONFIG)}


def mark_text() -> str:
    """What RUN/fastass.json holds."""
    return json.dumps({"kind": "run", "fastass": version("fastass")}) + "\n"


def read_labelled(path: Path) -> list[str]:
    """The names of a run's labelled target images, `printable`. UserError: they can't be read."""
    file = path / LABELLED
    try:
        return [printable(name) for name in file.read_bytes().decode().splitlines()]
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: damaged: it is no text; start anew with --overwrite") from None


def is_marked(path: Path) -> bool:
    """Whether a directory carries the mark."""
    try:
        content = json.loads((path / MARK).read_bytes())
    except (OSError, *DAMAGE):
        return False
    return isinstance(content, dict) and content.get("kind") == "run"


def is_begun(path: Path) -> bool:
    """Whether a directory holds at most what a kill leaves before the configuration is written."""
    return {entry.name for entry in path.iterdir()} <= _BEGUN


def is_earlier_run(path: Path) -> bool:
    """Whether an unmarked directory is a run that an earlier version trained."""
    try:
        from_yaml(path / CONFIG)
    except UserError:
        return False
    found = (*list_checkpoints(path), *replaced(path))
    return any((checkpoint / MODEL).is_file() for checkpoint in found)


def is_empty(path: Path) -> bool:
    """Whether a run has nothing to lose: no checkpoint, no result, no evaluation."""
    if list_checkpoints(path) or any(replaced(path)) or (path / SUMMARY).exists():
        return False
    try:
        return b'"eval"' not in (path / METRICS).read_bytes()
    except OSError:
        return True


def remove_run(path: Path) -> None:
    """Remove the files of a run that fastass wrote, but for the mark and the lock.

    Raises OSError if one of them can't be removed.
    """
    for name in _FILES:
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            remove_checkpoint(entry)  # a pointer's, copied whole
        else:
            entry.unlink(missing_ok=True)
        (path / f".{name}.tmp").unlink(missing_ok=True)
    _remove_matching(path / EXAMPLES, _EXAMPLE)
    _remove_matching(path / TENSORBOARD, _EVENTS)
    for checkpoint in (*list_checkpoints(path), *replaced(path), *leftovers(path)):
        remove_checkpoint(checkpoint)
    with contextlib.suppress(OSError):
        (path / FOLDER).rmdir()
    (path / CONFIG).unlink(missing_ok=True)


def _remove_matching(folder: Path, pattern: re.Pattern[str]) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in folder.iterdir():
        if pattern.fullmatch(entry.name) and not entry.is_dir():
            entry.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()
