"""`fastass bench data`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.schema import Count, Layout
from fastass.config.text import parse
from fastass.config.values import local_path
from fastass.errors import UserError


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--files", metavar="DIR", help="a data set in its original layout")
    add("--layout", type=typed(Layout), default="auto", help="its layout; auto recognises it")
    add("--split", default="train", help="split of the data set")
    add("--packed", metavar="DIR", help="the same data set, packed")
    add("--size", metavar="WxH", required=True, help="training size, e.g. 1280x720")
    add("--batch", type=typed(Count), default=4, metavar="N", help="images per batch")
    add("--workers", type=typed(Count), default=2, metavar="N", help="workers per loader")
    add(
        "--rounds",
        type=typed(Count),
        default=5,
        metavar="N",
        help="timed turns per loader; the median counts",
    )
    add("--device", default="cpu", help="device that receives the batches: cpu or cuda:N")
    add("--json", type=local_path, metavar="FILE", help="also write the result there")


def run(args: Namespace) -> None:
    from fastass.bench.input.loaders import format_rates, measure
    from fastass.bench.result import write_result
    from fastass.pipelines.datasets.layouts import open_dataset
    from fastass.pipelines.packed.dataset import open_packed
    from fastass.tracking.terminal import reporter

    if args.files is None and args.packed is None:
        raise UserError("bench data needs --files DIR, --packed DIR, or both")
    width, height = parse(args.size, tuple[int, int], "--size")
    with reporter() as progress:
        rates = measure(
            open_dataset(args.files, args.layout, args.split) if args.files else None,
            open_packed(args.packed) if args.packed else None,
            (width, height),
            batch=args.batch,
            workers=args.workers,
            rounds=args.rounds,
            device=args.device,
            progress=lambda name: progress.phase(name, 0),
        )
    if args.json is not None:  # first: the output may be closed
        rows = [asdict(rate) for rate in rates]
        write_result(args.json, "fastass bench data", {"rows": rows})
    print(format_rates(rates))


COMMAND = Command(
    "data",
    "images/s of data loading, side by side with the AdaptSegNet baseline",
    "fastass bench data --files GTA5 --packed packed/gta5 --size 1280x720",
    flags,
    run,
)
