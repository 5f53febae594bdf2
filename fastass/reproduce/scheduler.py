"""Runs a grid: each run is a `fastass train` in its own process, several at the same time."""

import os
import queue
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fastass.checkpoint.own_files import SUMMARY
from fastass.pipelines.file_lock import locked
from fastass.reproduce.commands import Commands
from fastass.runtime.atomic_write import write_whole
from fastass.tracking.progress import Reporter


@dataclass(frozen=True)
class CellRun:
    """One run: its directory's name and the words after `fastass train`.

    then: the words of the command of `fastass` that follows; it writes OUT/`writes`.
    """

    name: str
    words: tuple[str, ...]
    then: tuple[str, ...] = ()
    writes: str = ""


def run_all(runs: Sequence[CellRun], out: Path, jobs: int, progress: Reporter) -> list[Path]:
    """Run what is not complete, `jobs` at the same time, in order; → logs of the runs that failed.

    Each run is OUT/NAME, with its output in OUT/NAME.log. An interrupted run continues. A run that
    was completed with the same words is not started again. With several GPUs, each job gets its
    own GPU; on a CPU the jobs share the cores. On Ctrl-C or SIGTERM the runs save and end, and no
    other is started.
    """
    out.mkdir(parents=True, exist_ok=True)
    waiting = [run for run in runs if not _complete(run, out)]
    progress.line(f"{len(runs) - len(waiting)} of {len(runs)} runs are complete")
    devices: queue.Queue[str | None] = queue.Queue()
    gpus = torch.cuda.device_count()
    for i in range(jobs):
        devices.put(str(i % gpus) if gpus > 1 else None)
    failed, commands = [], Commands()
    with ThreadPoolExecutor(jobs) as pool, commands.stopped_by_error(pool):
        futures = {pool.submit(_run, run, out, jobs, devices, commands): run for run in waiting}
        for done, future in enumerate(as_completed(futures), 1 + len(runs) - len(waiting)):
            run, code = futures[future], future.result()
            log = out / f"{run.name}.log"
            progress.line(f"{run.name}: {'done' if code == 0 else f'exit code {code}, see {log}'}")
            progress.advance(done)
            if code != 0:
                failed.append(log)
    return failed


def _complete(run: CellRun, out: Path) -> bool:
    return (
        (out / run.name / SUMMARY).exists()
        and (not run.writes or (out / run.writes).exists())
        and _has_words(run, out)
    )


def _has_words(run: CellRun, out: Path) -> bool:
    """Whether the results of a cell are those of a run with the same words."""
    try:
        text = (out / f"{run.name}.words").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return tuple(text.splitlines()) == run.words


def _run(
    run: CellRun,
    out: Path,
    jobs: int,
    devices: "queue.Queue[str | None]",
    commands: Commands,
) -> int:
    """→ exit code. If another process runs the cell, waits for it and takes its result."""
    lock = out / f".{run.name}.lock"
    with locked(lock, f"running {run.name}", wait=True, on_wait=_print_line) as held:
        return 0 if _complete(run, out) else _train(run, out, jobs, devices, commands, held)


def _train(
    run: CellRun,
    out: Path,
    jobs: int,
    devices: "queue.Queue[str | None]",
    commands: Commands,
    lock: tuple[int, ...],
) -> int:
    """lock: the descriptor of the cell's lock, which the commands hold too: should this process be
    killed, they go on, and the next `fastass reproduce` waits for them.
    """
    words = out / f"{run.name}.words"
    if run.writes and not _has_words(run, out):
        (out / run.writes).unlink(missing_ok=True)  # it is of another run
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with _device(devices) as device, open(out / f"{run.name}.log", "a", encoding="utf-8") as log:
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        train = ["train", *run.words, "--resume", "--plain", "--out", str(out / run.name)]
        for command in (train, run.then):
            if not command:
                continue
            if code := commands.run(command, log, environment, lock):
                return code
    # Last: until then what lies there may be the result of other words.
    write_whole(words, "".join(f"{word}\n" for word in run.words))
    return 0


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _device(devices: "queue.Queue[str | None]") -> Iterator[str | None]:
    device = devices.get()
    try:
        yield device
    finally:
        devices.put(device)
