"""`fastass toycity`."""

from argparse import ArgumentParser, Namespace
from typing import Annotated

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.schema import Images, Seed
from fastass.config.values import local_path
from fastass.models.number_range import Range


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("directory", type=local_path, metavar="DIR", help="where to write it")
    parser.add_argument(
        "--source",
        type=typed(Images),
        default=400,
        metavar="N",
        help="number of rendered source images",
    )
    parser.add_argument(
        "--target",
        type=typed(Images),
        default=300,
        metavar="N",
        help="number of photographed target training images",
    )
    parser.add_argument(
        "--val",
        type=typed(Images),
        default=60,
        metavar="N",
        help="number of target validation images",
    )
    parser.add_argument(
        "--seed",
        type=typed(Seed),
        default=0,
        metavar="N",
        help="random seed: the same seed gives the same files",
    )
    parser.add_argument(
        "--shift",
        type=typed(Annotated[float, Range(0, 1)]),
        default=1.0,
        metavar="X",
        help="domain shift of the target's materials, 0 to 1",
    )
    parser.add_argument(
        "--layout",
        choices=("gta5", "synthia"),
        default="gta5",
        help="layout of the source files",
    )
    parser.add_argument(
        "--workers",
        type=typed(Annotated[int, Range(1, 1024)]),
        default=2,
        metavar="N",
        help="number of processes",
    )


def run(args: Namespace) -> None:
    from fastass.pipelines.errors import printable
    from fastass.pipelines.toycity import generate
    from fastass.tracking.terminal import reporter

    with reporter() as progress:
        progress.phase("generate", args.source + args.target + args.val)
        generate(
            args.directory,
            source=args.source,
            target=args.target,
            val=args.val,
            seed=args.seed,
            source_layout=args.layout,
            shift=args.shift,
            workers=args.workers,
            progress=lambda done, total: progress.advance(done),
            on_wait=progress.line,
        )
    print(
        printable(f"{args.directory}/{args.layout} (source), {args.directory}/cityscapes (target)")
    )


COMMAND = Command(
    "toycity",
    "generate ToyCity, the built-in data set",
    "fastass toycity data/toycity --source 400 --target 300",
    flags,
    run,
)
