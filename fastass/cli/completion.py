"""`fastass completion`."""

from argparse import Action, ArgumentParser, Namespace, _SubParsersAction

from fastass.cli.command import Command
from fastass.errors import UserError

SHELLS = ("bash", "zsh", "fish")
FILES = ("FILE", "PATH", "CKPT", "IMAGES", "RUN")


def flags(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(args: Namespace) -> None:
    print(script(args.whole, args.shell))


def script(parser: ArgumentParser, shell: str) -> str:
    """The completion script for a shell. UserError where shtab, which writes it, is missing."""
    try:
        import shtab  # here: no other command needs it
    except ImportError:
        raise UserError("completion: shtab is not installed; pip install shtab") from None
    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _actions(parser: ArgumentParser) -> list[Action]:
    """The actions of the parser and of all its commands."""
    actions = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for command in action.choices.values():
                actions += _actions(command)
    return actions


COMMAND = Command(
    "completion",
    "print a script that completes commands, flags and values with the tab key",
    "fastass completion bash > ~/.local/share/bash-completion/completions/fastass",
    flags,
    run,
)
