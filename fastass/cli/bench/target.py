"""`fastass bench target`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.schema import Count
from fastass.config.values import local_path
from fastass.errors import UserError

if TYPE_CHECKING:
    from fastass.bench.step.target import Result


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--counts",
        type=typed(tuple[Count, ...]),
        metavar="N,N",
        help="numbers of labelled target images [default 5,20]",
    )
    add("--seeds", type=typed(Count), default=3, metavar="N", help="seeds 0 … N−1")
    add(
        "--steps",
        type=typed(Count),
        default=1000,
        metavar="N",
        help="steps of the AdaptSegNet baseline; its end is the target",
    )
    add(
        "--own-steps",
        type=typed(Count),
        default=300,
        metavar="N",
        help="steps over which fastass's learning rate decays; it stops at the target",
    )
    add("--every", type=typed(Count), default=20, metavar="N", help="steps between evaluations")
    add("--data-source", metavar="DIR", help="source data set [default ToyCity, generated]")
    add("--data-target", metavar="DIR", help="target data set [default ToyCity, generated]")
    add("--json", type=local_path, metavar="FILE", help="also write the result there")


def run(args: Namespace) -> None:
    from fastass.bench.result import write_result
    from fastass.bench.step.target import Race, base_config
    from fastass.bench.step.target import run as race
    from fastass.runtime.device import describe_runtime
    from fastass.tracking.terminal import reporter
    from fastass.training.open_data import open_training_data

    if (args.data_source is None) != (args.data_target is None):
        raise UserError("--data-source and --data-target belong together; give both, or neither")
    config = base_config(args.data_source, args.data_target)
    _, config = open_training_data(config, reporter(plain=True))
    results: list[Result] = []
    for labelled in args.counts or (5, 20):
        for seed in range(args.seeds):
            one = Race(
                labelled=labelled,
                seed=seed,
                steps=args.steps,
                own_steps=args.own_steps,
                every=args.every,
            )
            where = f"{labelled} labels, seed {seed}"

            def say(what: str, where: str = where) -> None:
                print(f"{where}: {what}", flush=True)

            results.append(race(one, config, say))
            if args.json is not None:  # what is measured is not lost
                rows = [result.record() for result in results]
                write_result(args.json, "fastass bench target", {"rows": rows})
    print(f"\n{describe_runtime(config.runtime).line}; {date.today()}\n\n{table(results)}")


def table(results: Sequence["Result"]) -> str:
    """Markdown, one row per race."""
    from tabulate import tabulate

    rows = [
        (
            f"{r.labelled}",
            f"{r.seed}",
            f"{r.target:.1f}",
            f"{r.baseline_seconds:.0f} s",
            f"{r.seconds:.0f} s, {r.steps} steps" if r.ratio else f"not reached in {r.steps} steps",
            f"{r.ratio:.1f}×" if r.ratio else "–",
        )
        for r in results
    ]
    heads = ["# labelled", "seed", "mIoU of the baseline", "baseline", "fastass", "sooner"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


COMMAND = Command(
    "target",
    "wall time until fastass's best method is as good as the AdaptSegNet baseline, on ToyCity",
    "fastass bench target --counts 20 --seeds 1",
    flags,
    run,
)
