"""`fastass doctor` and `fastass presets`."""

from argparse import ArgumentParser, Namespace

from fastass.cli.command import Command
from fastass.cli.doctor import report
from fastass.config.presets import PRESETS


def no_flags(parser: ArgumentParser) -> None:
    """These commands have no flags."""


def doctor(args: Namespace) -> None:
    print(report())


def presets(args: Namespace) -> None:
    width = max(map(len, PRESETS))
    wide = max(len(entry.where) for entry in PRESETS.values())
    for name, entry in PRESETS.items():
        reported = f"paper: {entry.miou} mIoU" if entry.miou is not None else ""
        print(f"{name:<{width}}  {entry.where:<{wide}}  {reported}".rstrip())


DOCTOR = Command(
    "doctor",
    "what this machine supports, and why the rest is unavailable",
    "fastass doctor",
    no_flags,
    doctor,
)
PRESETS_COMMAND = Command(
    "presets",
    "list the presets, with the paper's figures",
    "fastass presets",
    no_flags,
    presets,
)
