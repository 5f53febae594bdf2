"""`fastass toycity`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.cli.command import Command
from fastass.pipelines.toycity import generate
from fastass.tracking.terminal import reporter


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--source", type=int, default=400, metavar="N", help="rendered source images (400)"
    )
    parser.add_argument(
        "--target", type=int, default=300, metavar="N", help="camera-like target images (300)"
    )
    parser.add_argument(
        "--val", type=int, default=60, metavar="N", help="target images for validation (60)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the generator; another seed is another city (0)",
    )
    parser.add_argument(
        "--shift",
        type=float,
        default=1.0,
        help="how much the target's materials differ from the source's, 0 to 1 (1)",
    )
    parser.add_argument(
        "--layout", default="gta5", help="layout of the source: gta5 or synthia (gta5)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that render (2)")


def run(args: Namespace) -> None:
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
        )
    print(f"{args.directory}/{args.layout} (source), {args.directory}/cityscapes (target)")


COMMAND = Command(
    "toycity",
    "generate the built-in data set",
    "fastass toycity data/toycity --source 400 --target 300",
    flags,
    run,
)
