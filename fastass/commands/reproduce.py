"""`fastass reproduce`."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from fastass.commands.command import Command
from fastass.errors import TrainingFailure, UserError
from fastass.pipelines.toycity import generate
from fastass.presets import preset
from fastass.progress import Reporter, reporter
from fastass.reproduce import Cell, Grid, markdown, methods_grid, results

TABLES = {"table1": "gta5", "table3": "synthia"}


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("table", choices=tuple(TABLES), help="table of the paper")
    add("--toycity", action="store_true", help="on the built-in data")
    add("--gta5", metavar="DIR", help="source of table 1")
    add("--synthia", metavar="DIR", help="source of table 3")
    add("--cityscapes", metavar="DIR", help="target")
    add("--counts", help="numbers of labelled images, e.g. 10,50 (the table's)")
    add("--seeds", type=int, default=1, metavar="K", help="runs of every cell (1)")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time, one a GPU (1)")
    add("--out", type=Path, metavar="DIR", help="for the runs and results (runs/TABLE)")
    add("--train", default="", metavar="FLAGS", help="more flags for every `fastass train`")


def run(args: Namespace) -> None:
    out = args.out or Path("runs") / (args.table + ("_toycity" if args.toycity else ""))
    counts = _counts(args.counts)
    grid = methods_grid(args.table, TABLES[args.table], counts, args.toycity)
    if not grid.cells:
        raise UserError(f"--counts: none of {args.counts} is a row of {args.table}")
    data = _data(args, grid)
    jobs = [(cell, seed) for cell in grid.cells for seed in range(args.seeds)]
    with reporter() as report, ThreadPoolExecutor(args.jobs) as pool:
        report.phase(args.table, len(jobs))
        futures = [
            pool.submit(_run, cell, seed, out, [*data, *args.train.split()], args, i, report)
            for i, (cell, seed) in enumerate(jobs)
        ]
        failed = []
        for done, future in enumerate(futures, 1):
            failed += future.result()
            report.advance(done)
    records = results(grid, out, range(args.seeds))
    table = markdown(grid, records)
    (out / "results.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    print(f"{out}/results.json, {out}/table.md")
    if failed:
        raise TrainingFailure(f"{len(failed)} runs failed: {failed[0]}; call again to go on")


def _run(
    cell: Cell, seed: int, out: Path, flags: list[str], args: Namespace, i: int, report: Reporter
) -> list[str]:
    """One run in a process of its own, resumed if it is there; → its error, if any."""
    name = cell.name(seed)
    words = ["--method", cell.method, "--labelled", str(cell.labelled), "--seed", str(seed)]
    words += ["--labelled-seed", str(seed), "--resume", "--plain", "--out", str(out / name)]
    if cell.sadv is not None:
        words += ["--loss-sadv", str(cell.sadv)]
    base = "toycity" if args.toycity else _preset_name(args.table, cell)
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    if torch.cuda.device_count() > 1:
        environment["CUDA_VISIBLE_DEVICES"] = str(i % torch.cuda.device_count())
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{name}.log", "a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "fastass", "train", base, *words, *flags]
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode
    report.line(f"{name}: {'done' if code == 0 else f'exit code {code}, see {out / name}.log'}")
    return [] if code == 0 else [f"{out / name}.log"]


def _preset_name(table: str, cell: Cell) -> str:
    return f"{TABLES[table]}_to_cityscapes_{cell.method.replace('ga+', '')}_{cell.labelled}"


def _data(args: Namespace, grid: Grid) -> list[str]:
    if args.toycity:
        toy = preset("toycity").toycity
        generate(toy.directory, toy.source, toy.target, toy.seed, toy.val)
        return []
    source = getattr(args, grid.source)
    if source is None or args.cityscapes is None:
        raise UserError(
            f"{args.table} needs --{grid.source} DIR and --cityscapes DIR, or --toycity"
        )
    return ["--data-source", source, "--data-target", args.cityscapes]


def _counts(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--counts: expected numbers such as 10,50, got {text!r}") from None


COMMAND = Command(
    "reproduce",
    "run a table of the paper and set it beside the paper's figures",
    "fastass reproduce table1 --toycity --seeds 3 --counts 20",
    flags,
    run,
)
