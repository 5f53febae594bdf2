"""`fastass train`."""

import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace, _ArgumentGroup
from pathlib import Path
from typing import Literal, get_args, get_origin

from fastass.api import train
from fastass.cli.command import Command
from fastass.config.presets import PRESETS
from fastass.config.text import Leaf, flag_of, from_yaml, settable
from fastass.errors import UserError


def flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="PRESET", choices=tuple(PRESETS),
        help="see `fastass presets` (toycity)",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE", help="a saved config.yaml")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory (runs/PRESET)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, if any")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="save and stop at this step")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live bar")
    config_flags(parser)


def config_flags(parser: ArgumentParser) -> None:
    """A flag for every value of the configuration; the last word alone does where it is unique."""
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
    given = {leaf.path: getattr(args, leaf.path) for leaf in settable()}
    train(
        from_yaml(args.config, _note) if args.config is not None else args.name,
        out=args.out,
        resume=args.resume,
        overwrite=args.overwrite,
        stop_at=args.stop_at,
        plain=args.plain,
        **{path: value for path, value in given.items() if value is not None},
    )


def _note(line: str) -> None:
    print(f"fastass: {line}", file=sys.stderr)


COMMAND = Command(
    "train",
    "adapt a DeepLab from a source to a target domain",
    "fastass train toycity --method ga+fcsa --labelled 20 --steps 50 --out runs/a",
    flags,
    run,
)
