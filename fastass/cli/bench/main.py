"""`fastass bench`: one module per part, each with its own flags."""

from argparse import ArgumentParser, Namespace

from fastass.cli.bench import batch, data, model, scale, step, target, train
from fastass.cli.command import Command

PARTS = {
    part.name: part
    for part in (
        data.COMMAND,
        step.COMMAND,
        train.COMMAND,
        target.COMMAND,
        scale.COMMAND,
        batch.COMMAND,
        model.COMMAND,
    )
}


def flags(parser: ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for part in PARTS.values():
        sub = parts.add_parser(
            part.name,
            help=part.help,
            description=f"example: {part.example}\n\n{part.help}",
        )
        part.flags(sub)


def run(args: Namespace) -> None:
    if args.json is not None:
        from fastass.bench.result import check_result_file

        check_result_file(args.json)
    PARTS[args.part].run(args)


COMMAND = Command(
    "bench",
    "measure images/s, memory and step time, side by side with the AdaptSegNet baseline",
    data.COMMAND.example,
    flags,
    run,
)
