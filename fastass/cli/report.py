"""`fastass report`."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.cli.command import Command
from fastass.config.values import local_path
from fastass.pipelines.errors import printable


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=local_path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument(
        "--out",
        type=local_path,
        default=Path("report.html"),
        metavar="FILE",
        help="page to write",
    )


def run(args: Namespace) -> None:
    from fastass.report.page import write_report

    for note in write_report(args.runs, args.out):
        print(printable(f"note: {note}"), file=sys.stderr)
    print(printable(f"{args.out}: open it in a browser"))


COMMAND = Command(
    "report",
    "turn runs into one HTML page with curves, pictures, a confusion matrix and throughput",
    "fastass report runs/a runs/b --out report.html",
    flags,
    run,
)
