"""What a command is to the command line."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """Its name, one line of help, an example, its flags and what runs it."""

    name: str
    help: str
    example: str
    flags: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]
