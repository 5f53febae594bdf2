"""The type of a command."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: name, one line of help, an example, its flags and the function that runs it."""

    name: str
    help: str
    example: str
    flags: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]
