"""The page Reference/Command line, from the parsers themselves."""

import argparse
from collections.abc import Iterator

from fastass.cli.main import DESCRIPTION, build_parser
from fastass.cli.parser import AllNames
from fastass.config.text import settable

INTRODUCTION = f"""\
# Command line

{DESCRIPTION.partition(" Each command")[0]}

Each command prints its own help: `fastass train --help` shows the common flags, and
`fastass train --help-all` shows every flag.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | the command failed or its result is incomplete, for example a diverged training |
| 2 | bad input: a flag, a file or a data set. One line says what to change |
| 130, 143, 129 | interrupted by Ctrl-C, SIGTERM or SIGHUP; a training has saved a checkpoint |
"""
CONFIGURATION = (
    "The command also has a flag for every value of the [configuration](configuration.md)."
)


def page() -> str:
    """Markdown: a heading for each command, with its example and its flags."""
    parts = [INTRODUCTION]
    for name, sub in commands(build_parser()):
        level = "##" if name.count(" ") == 1 else "###"
        parts += [f"{level} {name}", *_description(sub), *_flags(sub)]
    return "\n\n".join(parts) + "\n"


def commands(
    parser: argparse.ArgumentParser, name: str = "fastass"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command and every part of one, with its full name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                yield f"{name} {word}", sub
                yield from commands(sub, f"{name} {word}")


def own_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """A command's arguments, but for its parts, its help and the values of the configuration."""
    return [
        action
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction)
        and action.dest not in ("help", "help_all")
        and not is_value(action)
    ]


def is_value(action: argparse.Action) -> bool:
    """Whether an argument is a value of the configuration, which has no default of its own."""
    paths = {leaf.path for leaf in settable()}
    return action.dest in paths and action.default is argparse.SUPPRESS


def _description(sub: argparse.ArgumentParser) -> list[str]:
    example, _, about = (sub.description or "").partition("\n\n")
    sentence = about[:1].upper() + about[1:].rstrip(".") + "."
    return [sentence, f"```text\n{example.removeprefix('example: ')}\n```"]


def _flags(sub: argparse.ArgumentParser) -> list[str]:
    formatter = AllNames(sub.prog, width=10_000)
    entries = []
    for action in own_actions(sub):
        name = formatter._format_action_invocation(action)
        text = formatter._expand_help(action) if action.help else ""
        required = " [required]" if action.option_strings and action.required else ""
        entries.append(f"`{name}`\n:   {text}{required}")
    return [*entries, *([CONFIGURATION] if any(map(is_value, sub._actions)) else [])]
