"""`fastass train`."""

import sys
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace, _ArgumentGroup
from typing import Annotated, Any, Literal, get_args, get_origin

from fastass.cli.command import Command
from fastass.cli.parser import Parser, StoreValue, typed
from fastass.config.configure import DEFAULT_PRESET, configure, from_file
from fastass.config.presets import PRESETS, preset
from fastass.config.schema import Config
from fastass.config.text import Leaf, flag_of, settable, value_at
from fastass.config.values import kind, local_path, output_folder, written
from fastass.errors import UserError
from fastass.models.number_range import Range
from fastass.pipelines.errors import printable

# What most runs set. `--help` shows these flags, and `--help-all` the others too.
COMMON = frozenset(
    """method labelled steps start_steps batch accumulate seed init backward eval_every save_every
    log model.backbone model.norm data.source data.target data.val data.source_size data.target_size
    data.classes data.normalize data.workers data.loader optim.lr runtime.device runtime.amp
    runtime.compile""".split()
)


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "name",
        nargs="?",
        metavar="PRESET",
        choices=tuple(PRESETS),
        help="configuration to start from; `fastass presets` lists them "
        f"[default {DEFAULT_PRESET}]",
    )
    add(
        "--config",
        type=local_path,
        metavar="FILE",
        help="start from a saved config.yaml instead of a preset",
    )
    add("--out", type=output_folder, metavar="DIR", help="run directory [default runs/PRESET]")
    add(
        "--resume",
        action="store_true",
        help="continue an interrupted run in --out, or start one if there is none",
    )
    add("--overwrite", action="store_true", help="replace the run in --out")
    add(
        "--stop-at",
        type=typed(Annotated[int, Range(0)]),
        metavar="STEP",
        help="save and stop at this step",
    )
    add(
        "--elastic",
        metavar="ADDRESS",
        help="train as one of several members that may end and come, each started by this command; "
        "address of torchft's lighthouse, e.g. http://node1:29510",
    )
    add("--plain", action="store_true", help="print lines instead of a live view")
    config_flags(parser)
    hide_uncommon(parser)


def hide_uncommon(parser: ArgumentParser) -> None:
    """Show the values of the configuration that few runs set in `--help-all` only."""
    if isinstance(parser, Parser):
        parser.hide({leaf.path for leaf in settable()} - COMMON)


def config_flags(parser: ArgumentParser) -> None:
    """A flag for every value of the configuration; its last word alone works where it is unique."""
    groups: dict[str, _ArgumentGroup] = {}
    for leaf, names in settable().items():
        if leaf.section not in groups:
            groups[leaf.section] = parser.add_argument_group(leaf.section)
        how: dict[str, Any] = {"action": StoreValue, "metavar": "VALUE"}
        if get_origin(leaf.type) is Literal:
            how = {"action": StoreValue, "choices": tuple(map(str, get_args(leaf.type)))}
        elif leaf.type is bool:
            how = {"action": BooleanOptionalAction}
        help = f"{leaf.help} {_about(leaf)}".replace("%", "%%")
        flags = [flag_of(name) for name in names]
        groups[leaf.section].add_argument(
            *flags, dest=leaf.path, default=SUPPRESS, help=help, **how
        )


def _about(leaf: Leaf) -> str:
    """Type, range and default of a value, and the default preset's value if it is another."""
    words = [] if leaf.type is bool or get_origin(leaf.type) is Literal else [kind(leaf.type)]
    default = f"default {written(leaf.default)}"
    usual = value_at(preset(DEFAULT_PRESET), leaf.path)
    if usual != leaf.default:
        default += f", {DEFAULT_PRESET} {written(usual)}"
    return f"[{'; '.join([*words, default])}]"


def run(args: Namespace) -> None:
    from fastass.tracking.terminal import reporter
    from fastass.training.run import saved_config, train

    if args.name and args.config:
        raise UserError("give a preset or --config, not both")
    given = vars(args)
    config = configure(
        from_file(args.config, _note) if args.config is not None else args.name,
        {leaf.path: given[leaf.path] for leaf in settable() if leaf.path in given},
        saved=saved_config(args.out, args.resume),
    )
    try:
        train(
            config,
            args.out,
            reporter(args.plain),
            resume=args.resume,
            overwrite=args.overwrite,
            stop_at=args.stop_at,
            elastic=args.elastic,
        )
    except RuntimeError as error:
        _note_batch(error, config)
        raise


def _note_batch(error: RuntimeError, config: Config) -> None:
    """Tell an error of a GPU without memory which batch is expected to fit."""
    import torch

    from fastass.bench.model.fits import expected_to_fit

    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        _, memory = torch.cuda.mem_get_info()
        if expected := expected_to_fit(config, memory):
            error.add_note(expected)


def _note(line: str) -> None:
    print(printable(f"fastass: {line}"), file=sys.stderr)


COMMAND = Command(
    "train",
    "train a network on the source and adapt it to the target",
    "fastass train toycity --method ga+fcsa --no-mix --labelled 20 --steps 50 --out runs/a",
    flags,
    run,
)
