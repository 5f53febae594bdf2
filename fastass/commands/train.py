"""`fastass train`."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace, _ArgumentGroup
from pathlib import Path

from fastass.commands.command import Command
from fastass.configfile import Leaf, from_yaml, leaves, override
from fastass.errors import UserError
from fastass.presets import preset
from fastass.progress import reporter
from fastass.run import CONFIG
from fastass.training import train

DERIVED = {"preset", "model.num_classes"}  # set by the preset and by the data


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="PRESET", help="see `fastass presets` (toycity)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a saved config.yaml")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory (runs/PRESET)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, if any")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="save and stop at this step")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live bar")
    config_flags(parser)


def config_flags(parser: ArgumentParser) -> None:
    """A flag for every value of the configuration; the last word alone does where it is unique."""
    every = [leaf for leaf in leaves() if leaf.path not in DERIVED]
    last = [leaf.path.split(".")[-1] for leaf in every]
    groups: dict[str, _ArgumentGroup] = {}
    for leaf, word in zip(every, last, strict=True):
        names = [leaf.flag]
        if "." in leaf.path and last.count(word) == 1:
            names.append("--" + word.replace("_", "-"))
        section = leaf.path.partition(".")[0] if "." in leaf.path else "run"
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        _add(groups[section], leaf, names)


def _add(group: _ArgumentGroup, leaf: Leaf, names: list[str]) -> None:
    help = leaf.help.replace("%", "%%")
    if leaf.type is bool:
        group.add_argument(
            *names, dest=leaf.path, action=BooleanOptionalAction, default=None, help=help
        )
    else:
        group.add_argument(*names, dest=leaf.path, metavar="VALUE", default=None, help=help)


def run(args: Namespace) -> None:
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if args.name and args.config:
        raise UserError("give a preset or --config, not both")
    given = {leaf.path: getattr(args, leaf.path, None) for leaf in leaves()}
    given = {path: value for path, value in given.items() if value is not None}
    saved = args.out / CONFIG if args.out is not None else None
    if args.config is not None:
        base = from_yaml(args.config)
    elif args.name is None and args.resume and saved is not None and saved.is_file():
        base = from_yaml(saved)
    else:
        base = preset(args.name or "toycity")
    config = override(base, given)
    train(
        config,
        args.out if args.out is not None else Path("runs") / (config.preset or "run"),
        reporter(args.plain),
        resume=args.resume,
        overwrite=args.overwrite,
        stop_at=args.stop_at,
    )


COMMAND = Command(
    "train",
    "adapt a DeepLab from a source to a target domain",
    "fastass train toycity --method ga+fcsa --labelled 20 --steps 50 --out runs/a",
    flags,
    run,
)
