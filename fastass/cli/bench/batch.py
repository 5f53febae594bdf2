"""`fastass bench batch`."""

from argparse import ArgumentParser, Namespace
from datetime import date
from pathlib import Path

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.schema import Count
from fastass.config.text import parse
from fastass.config.values import local_path, output_folder
from fastass.errors import TrainingFailure, UserError


def flags(parser: ArgumentParser) -> None:
    from fastass.bench.scaling.large_batch import RULES

    add = parser.add_argument
    add("--batches", default="4,16,64,256", help="images per stream and step")
    add(
        "--rules",
        default=",".join(RULES),
        metavar="R,R",
        help="how optimizer and rates follow the batch",
    )
    add("--seeds", default="0,1,2", help="seeds of the runs of each cell")
    add("--jobs", type=typed(Count), default=1, metavar="N", help="runs at the same time")
    add(
        "--out",
        type=output_folder,
        metavar="DIR",
        default=Path("runs/batch"),
        help="directory of the runs; complete ones are kept",
    )
    add("--json", type=local_path, metavar="FILE", help="also write the result there")


def run(args: Namespace) -> None:
    import torch

    from fastass.bench.scaling import large_batch
    from fastass.reproduce.scheduler import CellRun, run_all
    from fastass.tracking.terminal import reporter

    batches = parse(args.batches, tuple[Count, ...], "--batches")
    seeds = parse(args.seeds, tuple[int, ...], "--seeds")
    rules = parse(args.rules, tuple[str, ...], "--rules")
    for rule in rules:
        if rule not in large_batch.RULES:
            raise UserError(f"--rules: {rule!r} is not one of {', '.join(large_batch.RULES)}")
    for batch in batches:
        if batch % large_batch.BASE:
            raise UserError(f"--batches: {batch} is not a multiple of {large_batch.BASE}")
    wanted = large_batch.cells(batches, rules)
    runs = [CellRun(cell.name(seed), cell.words(seed)) for seed in seeds for cell in wanted]
    with reporter() as progress:
        progress.phase("runs", len(runs))
        failed = run_all(runs, args.out, args.jobs, progress)
    rows = large_batch.rows(wanted, seeds, args.out)
    heading = f"ToyCity, seeds {args.seeds}, torch {torch.__version__}; {date.today()}"
    if args.json is not None:
        large_batch.write(args.json, heading, rows)
    print(f"{heading}\n\n{large_batch.table(rows)}")
    if failed:
        raise TrainingFailure(f"{len(failed)} of {len(runs)} runs failed, the first: {failed[0]}")


COMMAND = Command(
    "batch",
    "mIoU on ToyCity at 1 to 64 times the batch, by rule for the learning rates",
    "fastass bench batch --batches 4,64 --rules none,sqrt,lamb --seeds 0 --json batch.json",
    flags,
    run,
)
