"""`fastass reproduce`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.presets import preset
from fastass.config.schema import LAMBDA_SADV, Count
from fastass.errors import TrainingFailure, UserError
from fastass.pipelines.datasets.classes import SYNTHIA_13, SYNTHIA_16
from fastass.pipelines.toycity import generate
from fastass.reproduce.figure import check_matplotlib
from fastass.reproduce.grids import CLAIMS, GRIDS, Cell, Grid, grid, start_name
from fastass.reproduce.output_files import write, write_claims
from fastass.reproduce.scheduler import CellRun, run_all
from fastass.reproduce.toycity import SHIFT, START_STEPS, TRAINING
from fastass.tracking.terminal import reporter


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "table",
        choices=(*GRIDS, CLAIMS),
        help="a table of the paper; claims: its claims, on ToyCity",
    )
    add("--toycity", action="store_true", help="use the built-in data set")
    add("--gta5", metavar="DIR", help="source data of tables 1, 2 and 4")
    add("--synthia", metavar="DIR", help="source data of tables 3 and 5")
    add("--cityscapes", metavar="DIR", help="target data")
    add("--init", metavar="FILE", help="weights from which every run starts")
    add("--counts", help="numbers of labelled images, e.g. 10,50 (those of the table)")
    add(
        "--seeds",
        type=typed(Count),
        default=1,
        metavar="K",
        help="runs per cell, one per seed (1)",
    )
    add(
        "--jobs",
        type=typed(Count),
        default=1,
        metavar="N",
        help="runs at the same time, one per GPU (1)",
    )
    add(
        "--part",
        default="1/1",
        metavar="I/N",
        help="run the I-th of N parts of the runs (1/1)",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory of runs and results (runs/SOURCE)",
    )
    add("--train", default="", metavar="FLAGS", help="additional flags for every `fastass train`")
    add(
        "--no-train",
        action="store_true",
        help="do not train; write the results of the complete runs",
    )


def run(args: Namespace) -> None:
    if args.table == CLAIMS and not args.toycity:
        raise UserError("claims needs --toycity: its rules are made for that data")
    check_matplotlib()  # before hours of training, not after
    names = ("table1", "table2") if args.table == CLAIMS else (args.table,)
    counts = _counts(args.counts)
    grids = [grid(name, counts, args.toycity) for name in names]
    source = grids[0].source
    out = args.out or Path("runs") / (source + ("_toycity" if args.toycity else ""))
    part, parts = _part(args.part)
    seeds = range(args.seeds)
    failed = [] if args.no_train else _train(grids, out, seeds, part, parts, args)
    if args.table == CLAIMS:
        print(write_claims(grids[0], grids[1], out, seeds))
    else:
        print(write(grids[0], out, seeds))
    if failed:
        raise TrainingFailure(f"{len(failed)} runs failed: {failed[0]}; run the command again")


def _train(
    grids: list[Grid], out: Path, seeds: range, part: int, parts: int, args: Namespace
) -> list[Path]:
    """Run the starts that the cells share, then this part of the cells; → logs of failed runs."""
    source = grids[0].source
    flags = [*_data(args, source), *args.train.split()]
    if not (args.toycity or "--init" in flags or args.init):
        raise UserError(
            f"{args.table} starts from pretrained weights; give --init FILE (the same for every "
            "run), or --train '--init none'"
        )
    starts = _starts(seeds, flags) if args.toycity and not args.init else []
    cells = {
        run.name: run
        for table in grids
        for cell in table.cells
        for seed in seeds
        for run in (_cell_run(cell, seed, source, out, args, flags),)
    }
    with reporter() as progress:
        progress.phase("starts", len(starts))
        failed = run_all(starts, out, args.jobs, progress)
        if not failed:
            mine = list(cells.values())[part - 1 :: parts]
            progress.phase(args.table, len(mine))
            failed = run_all(mine, out, args.jobs, progress)
    return failed


def _starts(seeds: range, flags: list[str]) -> list[CellRun]:
    """ToyCity's supervised starts: one per seed, shared by its cells."""
    steps = ["--steps", str(START_STEPS)]
    return [
        CellRun(
            start_name(seed),
            ("toycity", *_words(Cell("source_only", 0), seed), *flags, *steps),
        )
        for seed in seeds
    ]


def _words(cell: Cell, seed: int) -> list[str]:
    """Flags for method, labelled images and seeds."""
    words = ["--method", cell.method, "--labelled", str(cell.labelled)]
    return [*words, "--seed", str(seed), "--labelled-seed", str(seed)]


def _cell_run(
    cell: Cell, seed: int, source: str, out: Path, args: Namespace, flags: list[str]
) -> CellRun:
    words = ["toycity" if args.toycity else cell.preset(source)]
    words += [*_words(cell, seed), *flags]
    if cell.sadv is not None and cell.sadv != LAMBDA_SADV[cell.method]:
        words += ["--loss-sadv", str(cell.sadv)]
    init = args.init
    if init is None and args.toycity:
        if cell.method == "oracle":
            words += ["--start-steps", str(START_STEPS)]
        else:
            init = str(out / start_name(seed) / "last")
    if init is not None:
        words += ["--init", init]
    return CellRun(cell.name(seed), tuple(words))


def _data(args: Namespace, domain: str) -> list[str]:
    """Flags that name the data; ToyCity is generated if it is missing."""
    if not args.toycity:
        source = getattr(args, domain)
        if source is None or args.cityscapes is None:
            raise UserError(f"{args.table} needs --{domain} DIR and --cityscapes DIR, or --toycity")
        return ["--data-source", source, "--data-target", args.cityscapes]
    toy = preset("toycity").toycity
    root = f"{toy.directory}_{domain}_shift{SHIFT:g}"
    counts = (toy.source, toy.target, toy.seed, toy.val)
    generate(root, *counts, source_layout=domain, shift=SHIFT)
    words = ["--data-source", f"{root}/{domain}", "--data-target", f"{root}/cityscapes"]
    if domain == "synthia":
        words += ["--data-classes", ",".join(SYNTHIA_16), "--data-report", ",".join(SYNTHIA_13)]
    return [*words, "--start-steps", "0", *TRAINING]


def _counts(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"--counts: expected numbers such as 10,50, got {text!r}") from None


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UserError(f"--part: expected I/N with 1 ≤ I ≤ N, such as 2/4, got {text!r}")
    return int(part), int(parts)


COMMAND = Command(
    "reproduce",
    "run a table of the paper and compare it with the paper's figures",
    "fastass reproduce table1 --toycity --seeds 3 --counts 20",
    flags,
    run,
)
