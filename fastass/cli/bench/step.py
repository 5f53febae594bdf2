"""`fastass bench step`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.cli.train import config_flags, hide_uncommon
from fastass.config.presets import TOYCITY_SGD, preset
from fastass.config.schema import AUTO, Config, Count, Steps
from fastass.config.text import leaves, override
from fastass.config.values import local_path
from fastass.errors import UserError

if TYPE_CHECKING:
    from fastass.bench.step import compare

DEFAULT = "gta5_to_cityscapes_csa_500"


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="PRESET", help=f"preset to measure [default {DEFAULT}]")
    measuring_flags(parser, rounds=7)
    add("--switches", action="store_true", help="also turn off one optimisation at a time")
    add(
        "--compiled",
        action="store_true",
        help="also time torch.compile, in each mode of the device",
    )
    config_flags(parser)
    hide_uncommon(parser)


def measuring_flags(parser: ArgumentParser, rounds: int) -> None:
    """Flags that the benchmarks of the step and of training share."""
    add = parser.add_argument
    add(
        "--rounds",
        type=typed(Count),
        default=rounds,
        metavar="N",
        help="timed turns per path; the median counts. Raise it on a busy machine",
    )
    add(
        "--warmup-rounds",
        type=typed(Steps),
        default=2,
        metavar="N",
        help="turns before them that are not timed",
    )
    add("--json", type=local_path, metavar="FILE", help="also write the result there")


def configured(args: Namespace, name: str) -> Config:
    """The preset with the flags given.

    The AdaptSegNet baseline has no self-training, and SGD. So `toycity` is measured with the
    paper's method, GA+CSA, and optimizer. UserError if the flags ask for `--mix`.
    """
    base = preset(name)
    if base.mix:
        base = override(replace(base, method="ga+csa", mix=False), TOYCITY_SGD)
    given = {leaf.path: getattr(args, leaf.path, None) for leaf in leaves()}
    given = {path: value for path, value in given.items() if value is not None}
    config = override(base, given).resolved()
    if config.mix:
        raise UserError(
            "--mix: the AdaptSegNet baseline has no self-training to compare with; leave it out "
            "(`fastass bench step --switches` measures what --mix costs)"
        )
    if config.batch == AUTO:
        raise UserError("--batch auto: a benchmark needs a number; `fastass train` finds one")
    return config


def run(args: Namespace) -> None:
    from fastass.bench.step import compare
    from fastass.bench.step.candidate import engine
    from fastass.bench.step.published import beside, published_step
    from fastass.bench.step.worker import CandidateConfig
    from fastass.runtime.device import describe_runtime
    from fastass.tracking.terminal import reporter

    config = configured(args, args.name or DEFAULT)
    line = describe_runtime(config.runtime).line
    others: list[CandidateConfig] = []
    if args.switches:
        others += compare.switches(config)
    if args.compiled:
        others += compare.compiled(config)
    with reporter() as progress:

        def measured(configs: Sequence[CandidateConfig]) -> list[compare.Row]:
            return compare.measure(
                configs,
                args.rounds,
                args.warmup_rounds,
                lambda what: progress.phase(what, 0),
                line=progress.line,
            )

        def keep() -> None:  # before it is printed: the output may be closed
            write(args.json, "fastass bench step", compare.heading(config, line), parts)

        parts = {"step": measured(compare.candidates(config))}
        keep()
        print(f"{compare.heading(config, line)}; {date.today()}\n\n{compare.table(parts['step'])}")
        print(f"\n{compare.memory_table(parts['step'])}")
        if (row := published_step(config)) is not None:
            print(f"\n{beside(row, parts['step'][-1])}")
        if others:
            ours = engine("fastass", config, count_flops=True)
            pairs = [measured([ours, other]) for other in others]
            parts["switches"] = [rows[1] for rows in pairs if len(rows) == 2]  # one may have failed
            keep()
            print(f"\nspeed and memory against fastass:\n\n{compare.table(parts['switches'])}")
            print(f"\n{compare.memory_table(parts['switches'])}")


def write(
    path: Path | None, command: str, heading: str, parts: "dict[str, list[compare.Row]]"
) -> None:
    """Write the result as JSON, if a path is given."""
    from fastass.bench.result import write_result
    from fastass.bench.step import compare

    if path is not None:
        rows = {name: compare.record(measured) for name, measured in parts.items()}
        result = {"heading": heading, "date": str(date.today()), **rows}
        write_result(path, command, result)


COMMAND = Command(
    "step",
    "time, memory and share of the peak rate of one training step, beside the AdaptSegNet baseline",
    "fastass bench step gta5_to_cityscapes_csa_500 --norm frozen --backward streamed --switches",
    flags,
    run,
)
