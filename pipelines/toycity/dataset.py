"""Generates the whole data set, and tells whether it is complete."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from fastass.pipelines.errors import DataError
from fastass.pipelines.file_lock import locked
from fastass.pipelines.new_file import open_new
from fastass.pipelines.process_pool import worker_pool
from fastass.pipelines.toycity.write import Job, files, write

VERSION = 4  # increase it when the same seed gives other pictures
MANIFEST = "toycity.json"
UNFINISHED = "toycity.unfinished"
LOCK = "toycity.lock"
SOURCE_SIZE = (480, 264)
TARGET_SIZE = (512, 256)


@dataclass(frozen=True)
class Request:
    """The parameters of a ToyCity, as its manifest records them. Sizes: (width, height) in pixels.

    shift: how far the target's materials are from the source's. At 0 the domains differ only in
    camera and town; at 1 each class has changed its colours in its own direction, and some classes
    have swapped theirs.
    """

    source: int
    target: int
    val: int
    seed: int
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    source_layout: str
    shift: float

    def check(self) -> None:
        """Raises DataError for values out of range."""
        if self.source_layout not in ("gta5", "synthia"):
            raise DataError(
                f"ToyCity source layout {self.source_layout!r} is unknown: use gta5 or synthia"
            )
        for name in ("source", "target", "val"):
            if getattr(self, name) < 1:
                raise DataError(f"ToyCity {name} is {getattr(self, name)}: ask for 1 image or more")
        if not 0 <= self.shift <= 1:
            raise DataError(f"ToyCity shift is {self.shift}: use 0 to 1")
        if self.seed < 0:
            raise DataError(f"ToyCity seed is {self.seed}: use 0 or more")
        for name in ("source_size", "target_size"):
            width, height = getattr(self, name)
            if width < 64 or height < 32:
                raise DataError(f"ToyCity {name} is {width}×{height}: use at least 64×32")

    def jobs(self, directory: Path) -> list[Job]:
        """Every image of the data set."""
        parts = (
            ("source", self.source, self.source_size, self.source_layout),
            ("train", self.target, self.target_size, "cityscapes"),
            ("val", self.val, self.target_size, "cityscapes"),
        )
        return [
            Job(str(directory), split, number, self.seed, size, layout, self.shift)
            for split, count, size, layout in parts
            for number in range(count)
        ]

    def manifest(self) -> dict[str, object]:
        """The content of the manifest."""
        row = asdict(self)
        row["source_size"], row["target_size"] = list(self.source_size), list(self.target_size)
        return {"data": "ToyCity", "version": VERSION, **row}


def request(
    source: int,
    target: int,
    seed: int = 0,
    val: int | None = None,
    source_size: tuple[int, int] = SOURCE_SIZE,
    target_size: tuple[int, int] = TARGET_SIZE,
    source_layout: str = "gta5",
    shift: float = 1.0,
) -> Request:
    """A checked request. val: default a fifth of the target, at least one image."""
    val = max(1, target // 5) if val is None else val
    wanted = Request(source, target, val, seed, source_size, target_size, source_layout, shift)
    wanted.check()
    return wanted


def _matches(directory: Path, wanted: Request) -> bool:
    path = directory / MANIFEST
    if not path.is_file() or (directory / UNFINISHED).exists():
        return False
    try:
        if json.loads(path.read_text()) != wanted.manifest():
            return False
    except (ValueError, RecursionError):
        return False
    return all(file.is_file() for job in wanted.jobs(directory) for file in files(job))


def is_complete(
    directory: str | Path,
    source: int,
    target: int,
    seed: int = 0,
    val: int | None = None,
    source_size: tuple[int, int] = SOURCE_SIZE,
    target_size: tuple[int, int] = TARGET_SIZE,
    source_layout: str = "gta5",
    shift: float = 1.0,
) -> bool:
    """Whether `directory` holds exactly this ToyCity, finished, with all its files."""
    return _matches(
        Path(directory),
        request(source, target, seed, val, source_size, target_size, source_layout, shift),
    )


def _prepare(directory: Path, wanted: Request) -> None:
    """Make the folders. Raises DataError if the directory holds something else."""
    present = {p.name for p in directory.iterdir()} - {LOCK}
    if present and not present & {MANIFEST, UNFINISHED}:
        raise DataError(
            f"{directory}: not empty and not a ToyCity; choose another directory or empty this one"
        )
    if MANIFEST in present and UNFINISHED not in present:
        raise DataError(
            f"{directory}: holds another ToyCity (other counts, seed, sizes or version, or files "
            "are missing); choose another directory or delete this one"
        )
    open_new(directory / UNFINISHED).close()
    for name in ("gta5", "synthia", "cityscapes"):
        if (directory / name).is_symlink():  # what it leads to is not ToyCity's
            raise DataError(f"{directory / name}: is a symbolic link; remove it")
        shutil.rmtree(directory / name, ignore_errors=True)
    for folder in {file.parent for job in wanted.jobs(directory) for file in files(job)}:
        folder.mkdir(parents=True, exist_ok=True)


def generate(
    directory: str | Path,
    source: int,
    target: int,
    seed: int = 0,
    val: int | None = None,
    workers: int = 2,
    source_size: tuple[int, int] = SOURCE_SIZE,
    target_size: tuple[int, int] = TARGET_SIZE,
    source_layout: str = "gta5",
    shift: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> None:
    """Write ToyCity: `source` rendered images (GTA5 or SYNTHIA layout) in DIR/gta5 or DIR/synthia,
    `target` and `val` photographed ones (Cityscapes layout) in DIR/cityscapes.

    The same request gives the same bytes with any number of workers (processes; 1: in this one).
    A directory that already holds exactly this data set is not changed. After an interruption there
    is no manifest, and the next call starts over. progress: called with (images done, images).
    If another process is generating into the directory, this one waits for it; on_wait is then
    called with one line that says so.
    Raises DataError for values out of range, a directory with other contents, a failed write, and
    if the system kills a worker.
    """
    root = Path(directory)
    wanted = request(source, target, seed, val, source_size, target_size, source_layout, shift)
    if workers < 1:
        raise DataError(f"ToyCity workers is {workers}: use 1 or more")
    if _matches(root, wanted):
        return
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: is a file; ToyCity needs a directory")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / LOCK, "generating ToyCity in it", wait=True, on_wait=on_wait):
            if not _matches(root, wanted):  # another process may just have written it
                _generate(root, wanted, workers, progress)
    except OSError as error:
        raise DataError(f"{root}: cannot write ToyCity: {error}") from error


def _generate(
    root: Path, wanted: Request, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    _prepare(root, wanted)
    _draw_all(wanted.jobs(root), workers, progress)
    temporary = root / (MANIFEST + ".tmp")
    with open_new(temporary) as file:
        file.write((json.dumps(wanted.manifest(), indent=1) + "\n").encode())
    os.replace(temporary, root / MANIFEST)
    (root / UNFINISHED).unlink()


def _draw_all(jobs: list[Job], workers: int, progress: Callable[[int, int], None] | None) -> None:
    with ExitStack() as stack:
        drawn: Iterator[None]
        if workers == 1:
            drawn = map(write, jobs)
        else:
            pool = stack.enter_context(worker_pool(min(workers, len(jobs)), "ToyCity"))
            drawn = pool.map(write, jobs, chunksize=4)
        for done, _ in enumerate(drawn, 1):
            if progress:
                progress(done, len(jobs))
