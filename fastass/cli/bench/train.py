"""`fastass bench train`."""

from argparse import ArgumentParser, Namespace
from datetime import date

from fastass.cli.bench.step import configured, measuring_flags, write
from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.cli.train import config_flags, hide_uncommon
from fastass.config.schema import Count, Steps


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="PRESET", help="preset to measure [default toycity]")
    measuring_flags(parser, rounds=5)
    add("--turn", type=typed(Count), default=20, metavar="STEPS", help="timed steps per turn")
    add(
        "--unmeasured",
        type=typed(Steps),
        default=10,
        metavar="STEPS",
        help="steps before them that are not timed; they use up prefetched data",
    )
    config_flags(parser)
    hide_uncommon(parser)


def run(args: Namespace) -> None:
    from fastass.bench.step import compare, train
    from fastass.bench.step.published import TOYCITY, beside
    from fastass.runtime.device import describe_runtime
    from fastass.tracking.terminal import reporter
    from fastass.training.open_data import open_training_data

    config = configured(args, args.name or "toycity")
    line = describe_runtime(config.runtime).line
    with reporter() as progress:
        _, config = open_training_data(config, progress)  # generates ToyCity once, for both
        rows = compare.measure(
            train.candidates(config),
            args.rounds,
            args.warmup_rounds,
            lambda what: progress.phase(what, 0),
            steps=args.turn,
            unmeasured=args.unmeasured,
            line=progress.line,
        )
    heading = f"{compare.heading(config, line)}, loader {config.data.loader}"
    write(args.json, "fastass bench train", heading, {"train": rows})
    print(f"{heading}; {date.today()}\n\n{compare.table(rows)}\n\n{compare.memory_table(rows)}")
    if config.preset == "toycity":
        print(f"\n{beside(TOYCITY, rows[-1])}")


COMMAND = Command(
    "train",
    "training end to end, with data loading, beside the AdaptSegNet baseline",
    "fastass bench train toycity --json train.json",
    flags,
    run,
)
