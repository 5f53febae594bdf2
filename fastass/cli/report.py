"""`fastass report`."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from fastass.cli.command import Command
from fastass.report.page import write_report


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )


def run(args: Namespace) -> None:
    for note in write_report(args.runs, args.out):
        print(f"note: {note}", file=sys.stderr)
    print(f"{args.out}: open it in a browser")


COMMAND = Command(
    "report",
    "one self-contained page that shows runs, alone or side by side",
    "fastass report runs/a runs/b --out report.html",
    flags,
    run,
)
