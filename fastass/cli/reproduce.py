"""`fastass reproduce`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.schema import LAMBDA_SADV, Count
from fastass.config.values import output_folder
from fastass.errors import TrainingFailure, UserError
from fastass.models.number_range import Range
from fastass.reproduce import toycity
from fastass.reproduce.grids import CLAIMS, GRIDS, HEADS, Cell, Grid, grid, start_name
from fastass.reproduce.toycity import SHIFT, START_STEPS

if TYPE_CHECKING:
    from fastass.reproduce.scheduler import CellRun


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
    add("--counts", help="numbers of labelled images, e.g. 10,50 [default: those of the table]")
    add(
        "--methods",
        metavar="M,M",
        help=f"columns: {', '.join(HEADS)} [default: those of the table]",
    )
    add(
        "--shift",
        type=typed(Annotated[float, Range(0, 1)]),
        metavar="S",
        help=f"how much ToyCity's target differs from its source, from 0 to 1 [default {SHIFT:g}]",
    )
    add(
        "--seeds",
        type=typed(Count),
        default=1,
        metavar="K",
        help="runs per cell, one per seed",
    )
    add(
        "--jobs",
        type=typed(Count),
        default=1,
        metavar="N",
        help="runs at the same time, one per GPU",
    )
    add(
        "--part",
        default="1/1",
        metavar="I/N",
        help="run the I-th of N parts of the runs",
    )
    add(
        "--out",
        type=output_folder,
        metavar="DIR",
        help="directory of runs and results [default runs/SOURCE]",
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
    from fastass.reproduce.figure import check_matplotlib
    from fastass.reproduce.output_files import write, write_claims

    check_matplotlib()  # before hours of training, not after
    names = ("table1", "table2") if args.table == CLAIMS else (args.table,)
    counts = _counts(args.counts)
    methods = args.methods.split(",") if args.methods is not None else None
    if args.table == CLAIMS and methods is not None:
        raise UserError("--methods has no effect on claims, which need every column")
    if args.shift is not None and not args.toycity:
        raise UserError("--shift is of the built-in data set; give --toycity, or leave it out")
    grids = [grid(name, counts, args.toycity, methods) for name in names]
    source = grids[0].source
    out = args.out or Path("runs") / _directory(source, args)
    part, parts = _part(args.part)
    seeds = range(args.seeds)
    failed = [] if args.no_train else _train(grids, out, seeds, part, parts, args)
    if args.table == CLAIMS:
        print(write_claims(grids[0], grids[1], out, seeds))
    else:
        print(write(grids[0], out, seeds))
    if failed:
        raise TrainingFailure(f"{len(failed)} runs failed: {failed[0]}; run the command again")


def _directory(source: str, args: Namespace) -> str:
    """The name of the directory of the runs; ToyCity's has the shift in it, unless it is 1."""
    shift = "" if args.shift in (None, SHIFT) else f"_shift{args.shift:g}"
    return f"{source}_toycity{shift}" if args.toycity else source


def _train(
    grids: list[Grid], out: Path, seeds: range, part: int, parts: int, args: Namespace
) -> list[Path]:
    """Run the starts that the cells share, then this part of the cells; → logs of failed runs."""
    from fastass.reproduce.scheduler import run_all
    from fastass.tracking.terminal import reporter

    source = grids[0].source
    flags = [*_data(args, source), *args.train.split()]
    if not (args.toycity or "--init" in flags or args.init):
        raise UserError(
            f"{args.table} starts from pretrained weights; give --init FILE (the same for every "
            "run), or --train '--init none'"
        )
    held_out = toycity.held_out_source(source) if args.toycity else None
    starts = _starts(seeds, flags) if args.toycity and not args.init else []
    cells = {
        run.name: run
        for table in grids
        for cell in table.cells
        for seed in seeds
        for run in (_cell_run(cell, seed, source, out, args, flags, held_out),)
    }
    with reporter() as progress:
        progress.phase("starts", len(starts))
        failed = run_all(starts, out, args.jobs, progress)
        if not failed:
            mine = list(cells.values())[part - 1 :: parts]
            progress.phase(args.table, len(mine))
            failed = run_all(mine, out, args.jobs, progress)
    return failed


def _starts(seeds: range, flags: list[str]) -> list["CellRun"]:
    """ToyCity's supervised starts: one per seed, shared by its cells."""
    from fastass.reproduce.scheduler import CellRun

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
    words = [*cell.flags, "--labelled", str(cell.labelled)]
    return [*words, "--seed", str(seed), "--labelled-seed", str(seed)]


def _cell_run(
    cell: Cell,
    seed: int,
    source: str,
    out: Path,
    args: Namespace,
    flags: list[str],
    held_out: str | None,
) -> "CellRun":
    """held_out: source images on which the run is measured at its end."""
    from fastass.reproduce.scheduler import CellRun

    # The cell's flags stand last: `control` has a λ_gadv of its own.
    words = ["toycity" if args.toycity else cell.preset(source)]
    words += [*flags, *_words(cell, seed)]
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
    name = cell.name(seed)
    if held_out is None:
        return CellRun(name, tuple(words))
    writes = f"{name}.source.json"
    then = toycity.evaluate_source(str(out / name), held_out, str(out / writes))
    return CellRun(name, tuple(words), then, writes)


def _data(args: Namespace, domain: str) -> list[str]:
    """Flags that name the data; ToyCity is generated if it is missing."""
    if not args.toycity:
        source = getattr(args, domain)
        if source is None or args.cityscapes is None:
            raise UserError(f"{args.table} needs --{domain} DIR and --cityscapes DIR, or --toycity")
        return ["--data-source", source, "--data-target", args.cityscapes]
    return toycity.data_flags(domain, SHIFT if args.shift is None else args.shift)


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
