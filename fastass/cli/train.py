"""`fastass train`."""

import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace, _ArgumentGroup
from pathlib import Path
from typing import Literal, get_args, get_origin

from fastass.cli.command import Command
from fastass.config.configure import configure
from fastass.config.presets import PRESETS
from fastass.config.text import Leaf, flag_of, from_yaml, settable
from fastass.errors import UserError
from fastass.tracking.terminal import reporter
from fastass.training.run import saved_config, train


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "name",
        nargs="?",
        metavar="PRESET",
        choices=tuple(PRESETS),
        help="configuration to start from; `fastass presets` lists them (toycity)",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="start from a saved config.yaml instead of a preset",
    )
    add("--out", type=Path, metavar="DIR", help="run directory (runs/PRESET)")
    add(
        "--resume",
        action="store_true",
        help="continue an interrupted run in --out, or start one if there is none",
    )
    add("--overwrite", action="store_true", help="replace the run in --out")
    add("--stop-at", type=int, metavar="STEP", help="save and stop at this step")
    add("--plain", action="store_true", help="print lines instead of a live view")
    config_flags(parser)


def config_flags(parser: ArgumentParser) -> None:
    """A flag for every value of the configuration; its last word alone works where it is unique."""
    groups: dict[str, _ArgumentGroup] = {}
    for leaf, names in settable().items():
        section = leaf.path.partition(".")[0] if "." in leaf.path else "run"
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        _add(groups[section], leaf, [flag_of(name) for name in names])


def _add(group: _ArgumentGroup, leaf: Leaf, names: list[str]) -> None:
    help = leaf.help.replace("%", "%%")
    if leaf.type is bool:
        group.add_argument(
            *names, dest=leaf.path, action=BooleanOptionalAction, default=None, help=help
        )
    else:
        choices = get_args(leaf.type) if get_origin(leaf.type) is Literal else ()
        words = tuple(str(choice) for choice in choices) or None
        metavar = None if words else "VALUE"
        group.add_argument(
            *names, dest=leaf.path, metavar=metavar, choices=words, default=None, help=help
        )


def run(args: Namespace) -> None:
    if args.name and args.config:
        raise UserError("give a preset or --config, not both")
    values = {leaf.path: getattr(args, leaf.path) for leaf in settable()}
    config = configure(
        from_yaml(args.config, _note) if args.config is not None else args.name,
        {path: value for path, value in values.items() if value is not None},
        saved=saved_config(args.out, args.resume),
    )
    train(
        config,
        args.out,
        reporter(args.plain),
        resume=args.resume,
        overwrite=args.overwrite,
        stop_at=args.stop_at,
    )


def _note(line: str) -> None:
    print(f"fastass: {line}", file=sys.stderr)


COMMAND = Command(
    "train",
    "train a network on the source and adapt it to the target",
    "fastass train toycity --method ga+fcsa --labelled 20 --steps 50 --out runs/a",
    flags,
    run,
)
