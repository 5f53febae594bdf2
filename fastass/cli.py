"""The command line: a thin layer over the package."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from fastass import commands
from fastass.configfile import Leaf, leaves, neighbours
from fastass.errors import USER_ERRORS, TrainingFailure, UserError
from fastass.interruption import Interrupted

DERIVED = {"preset", "model.num_classes"}  # set by the preset and by the data


class Parser(argparse.ArgumentParser):
    """One line for a wrong word, with its neighbours, instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def parse_args(self, args=None, namespace=None):
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = getattr(known, "parser", self)
            flags = [flag for flag in command._option_string_actions if flag.startswith("--")]
            raise UserError(f"unknown argument {unknown[0]!r}; {neighbours(unknown[0], flags)}")
        return known


def config_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every value of the configuration; the last word alone does where it is unique."""
    every = [leaf for leaf in leaves() if leaf.path not in DERIVED]
    last = [leaf.path.split(".")[-1] for leaf in every]
    groups: dict[str, argparse._ArgumentGroup] = {}
    for leaf, word in zip(every, last, strict=True):
        names = [leaf.flag]
        if "." in leaf.path and last.count(word) == 1:
            names.append("--" + word.replace("_", "-"))
        section = leaf.path.partition(".")[0] if "." in leaf.path else "run"
        group = groups.setdefault(section, parser.add_argument_group(section))
        _add(group, leaf, names)


def _add(group: argparse._ArgumentGroup, leaf: Leaf, names: list[str]) -> None:
    help = leaf.help.replace("%", "%%")
    if leaf.type is bool:
        group.add_argument(
            *names, dest=leaf.path, action=argparse.BooleanOptionalAction, default=None, help=help
        )
    else:
        group.add_argument(*names, dest=leaf.path, metavar="VALUE", default=None, help=help)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="fastass", description=__doc__, allow_abbrev=False)
    every = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], help: str, example: str
    ) -> Parser:
        sub = every.add_parser(
            name,
            help=help,
            description=f"example: {example}\n\n{help}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run, parser=sub)
        return sub

    p = command(
        "train",
        commands.train,
        "adapt a DeepLab from a source to a target domain",
        "fastass train toycity --method ga+fcsa --labelled 20 --steps 50 --out runs/a",
    )
    p.add_argument("name", nargs="?", metavar="PRESET", help="see `fastass presets`")
    p.add_argument("--config", type=Path, metavar="FILE", help="a saved config.yaml")
    p.add_argument("--out", type=Path, metavar="DIR", help="run directory (runs/<preset>)")
    p.add_argument("--resume", action="store_true", help="continue the run in --out, if any")
    p.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    p.add_argument("--stop-at", type=int, metavar="STEP", help="save and stop at this step")
    p.add_argument("--plain", action="store_true", help="lines instead of a live bar")
    config_flags(p)

    p = command(
        "eval",
        commands.evaluate,
        "per-class IoU and mIoU of a checkpoint",
        "fastass eval runs/a --data data/toycity/cityscapes",
    )
    p.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run or a checkpoint in it")
    p.add_argument("--data", required=True, metavar="DIR", help="data set with labels")
    p.add_argument("--layout", default="auto", help="gta5, synthia, cityscapes, folder or auto")
    p.add_argument("--split", default="val", help="split of the data set (val)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    _execution_flags(p)

    p = command(
        "predict",
        commands.predict,
        "train-id PNG and colour overlay of images",
        "fastass predict runs/a photo.jpg --out predictions",
    )
    p.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run or a checkpoint in it")
    p.add_argument("images", type=Path, metavar="IMAGES", help="an image or a folder of images")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="where they are written")
    _execution_flags(p)

    p = command(
        "toycity",
        commands.toycity,
        "generate the built-in data set",
        "fastass toycity data/toycity --source 400 --target 300",
    )
    p.add_argument("directory", type=Path, metavar="DIR")
    p.add_argument("--source", type=int, default=400, metavar="N", help="rendered images (400)")
    p.add_argument("--target", type=int, default=300, metavar="N", help="camera images (300)")
    p.add_argument("--val", type=int, default=60, metavar="N", help="validation images (60)")
    p.add_argument("--seed", type=int, default=0, help="seed of the generator (0)")
    p.add_argument("--workers", type=int, default=2, help="processes (2)")

    p = command(
        "pack",
        commands.pack,
        "turn a data set into checksummed shards that decode fast",
        "fastass pack --layout gta5 --root GTA5 --size 1280x720 --out packed/gta5",
    )
    p.add_argument("--root", metavar="DIR", help="the data set as its owners ship it")
    p.add_argument("--layout", default="auto", help="gta5, synthia, cityscapes, folder or auto")
    p.add_argument("--split", default="train", help="split of the data set (train)")
    p.add_argument("--size", metavar="WxH", help="training size, e.g. 1280x720")
    p.add_argument("--out", type=Path, metavar="DIR", help="where the shards are written")
    p.add_argument("--labels", choices=("required", "optional"), default="required")
    p.add_argument("--image", choices=("jpeg", "png"), default="jpeg", help="image encoding")
    p.add_argument("--quality", type=int, default=95, help="of JPEG, 4:4:4 (95)")
    p.add_argument("--label", choices=("raw", "png"), default="raw", help="label encoding")
    p.add_argument("--workers", type=int, help="processes (one a core)")
    p.add_argument("--records-per-shard", type=int, default=256, help="(256)")
    p.add_argument("--on-bad-sample", choices=("stop", "skip"), default="stop")
    p.add_argument("--verify", type=Path, metavar="DIR", help="check a packed directory instead")

    command("doctor", commands.doctor, "what this machine can run, and why not", "fastass doctor")
    command("presets", commands.presets, "presets and the paper's figures", "fastass presets")
    return parser


def _execution_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--kernels", default="auto", help="auto, reference, native or triton")
    parser.add_argument("--amp", action="store_true", help="mixed precision")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; → exit code: 0 done, 1 training failed, 2 bad input, 130/143 interrupted."""
    parser = build_parser()
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _check_command(parser, words)
        args = parser.parse_args(words)
        if args.command is None:
            parser.print_help()
            return 2
        args.run(args)
    except USER_ERRORS as error:
        print(f"fastass: {_one_line(error)}", file=sys.stderr)
        return 2
    except TrainingFailure as error:
        print(f"fastass: {_one_line(error)}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"fastass: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("fastass: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    return 0


def _check_command(parser: Parser, words: Sequence[str]) -> None:
    known = list(next(a.choices for a in parser._actions if isinstance(a.choices, dict)))
    if words and not words[0].startswith("-") and words[0] not in known:
        raise UserError(f"unknown command {words[0]!r}; {neighbours(words[0], known)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
