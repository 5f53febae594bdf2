"""The command line: a thin layer over the package."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from fastass.cli import (
    completion,
    evaluate,
    export,
    information,
    pack,
    predict,
    report,
    reproduce,
    toycity,
    train,
)
from fastass.cli.bench.main import COMMAND as BENCH
from fastass.cli.parser import Parser
from fastass.config.text import neighbours
from fastass.errors import USER_ERRORS, ExportFailure, Incomplete, TrainingFailure, UserError
from fastass.pipelines.errors import one_line, printable
from fastass.runtime.signals import Interrupted, describe_interrupt

COMMANDS = {
    command.name: command
    for command in (
        train.COMMAND,
        evaluate.COMMAND,
        predict.COMMAND,
        export.COMMAND,
        report.COMMAND,
        pack.COMMAND,
        toycity.COMMAND,
        BENCH,
        reproduce.COMMAND,
        information.DOCTOR,
        information.PRESETS_COMMAND,
        information.INFO,
        completion.COMMAND,
    )
}
DESCRIPTION = (
    "Train a street-scene segmentation network on synthetic images and adapt it to real ones\n"
    "with only a few real labels. Each command has its own help: fastass COMMAND --help"
)
LESS_MEMORY = (
    "to use less memory, lower --batch and raise --accumulate, lower --source-size and "
    "--target-size, or give --amp, --model-norm frozen, --backward streamed or "
    "--checkpoint-activations"
)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="fastass",
        description="example: fastass train toycity\n\n" + DESCRIPTION,
    )
    parser.add_argument("--version", action="version", version=f"fastass {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=f"example: {command.example}\n\n{command.help}",
        )
        command.flags(sub)
        sub.set_defaults(whole=parser)
    return parser


def _version() -> str:
    """The installed version; a checkout that was never installed has none."""
    try:
        return version("fastass")
    except PackageNotFoundError:
        return "from a checkout, not installed"


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """The arguments; UserError for an unknown command or flag proposes similar ones."""
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise UserError(f"unknown command {words[0]!r}; {neighbours(words[0], list(COMMANDS))}")
    known = flags_of(parser, words)
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and " " not in flag and flag not in known and flag != "--":
            raise UserError(f"unknown argument {flag!r}; {neighbours(flag, known)}")
    return parser.parse_args(words)


def flags_of(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The flags of the command that `words` name, or of its part."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for i, word in enumerate(words):
                if word in action.choices:
                    return flags_of(action.choices[word], words[i + 1 :])
    return [flag for flag in parser._option_string_actions if flag.startswith("--")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command → exit code: 0 done, 1 failed or incomplete, 2 bad input, 128 + a signal."""
    for stream in (sys.stdout, sys.stderr):  # a terminal of few characters gets a ? for others
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    parser = build_parser()
    try:
        _check_folder()
        args = parse(parser, sys.argv[1:] if arguments is None else arguments)
        if args.command is None:
            parser.print_help()
            return 2
        COMMANDS[args.command].run(args)
    except USER_ERRORS as error:
        print(f"fastass: {one_line(error)}", file=sys.stderr)
        return 2
    except (TrainingFailure, ExportFailure, Incomplete) as error:
        print(f"fastass: {one_line(error)}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"fastass: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt as error:
        message, code = describe_interrupt(error)
        if message:
            print(message, file=sys.stderr)
        return code
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = printable(str(error.filename or "output"))
        print(f"fastass: {where}: {error.strerror or error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError, SystemError) as error:
        if not _out_of_memory(error):
            raise
        where = f" ({one_line(error)})" if str(error) else ""
        notes = [f"; {note}" for note in getattr(error, "__notes__", ())]
        print(f"fastass: out of memory{where}{''.join(notes)}; {LESS_MEMORY}", file=sys.stderr)
        return 1
    return 0


def _check_folder() -> None:
    """UserError if the current folder was removed: torch's libraries end the process there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder was removed; change into another") from None


def _out_of_memory(error: Exception) -> bool:
    """PyTorch has an error class for GPU memory only; on a CPU it raises plain RuntimeErrors.

    CPython's import raises a SystemError where it had no memory.
    """
    import torch

    signs = (
        "can't allocate memory",
        "could not create a primitive",
        "could not create a memory",
        "could not execute a primitive",
        "error return without exception set",
    )
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        sign in str(error) for sign in signs
    )
