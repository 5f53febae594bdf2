"""What a larger batch costs in accuracy: ToyCity at 1 to 64 times the batch, equal images seen.

A cell is a batch and a rule, which says how the generator's optimizer and the learning rates follow
the batch. Each cell is one `fastass train` per seed. With k times the images per step there are a
k-th of the steps.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastass.bench.result import write_result
from fastass.checkpoint.json_file import read_json
from fastass.checkpoint.own_files import SUMMARY
from fastass.config.presets import TOYCITY_SGD
from fastass.config.text import as_flags

BASE = 4  # images per stream and step of the toycity preset
START, METHOD = 320, 480  # steps at the base batch, of the start and of the method
TRAINING = (
    "toycity --method ga+csa --no-mix --labelled 20 "
    "--source-size 128x72 --target-size 128x64 --eval-every 0 --workers 0"
).split() + as_flags(TOYCITY_SGD)
"""Flags of every run: small enough for one thread, about a minute each."""

# A run of 50 steps must forget the random start's statistics sooner; the classifier's rate is that
# of the backbone, and the discriminators keep theirs.
SHORT = "--norm-momentum 0.3 --head-lr 1 --scale-lr sqrt --scale-lr-discriminators none"
RULES: dict[str, str] = {
    "none": "",
    "sqrt": "--scale-lr sqrt",
    "linear": "--scale-lr linear",
    "lars": f"--optimizer lars --lr 0.1 --trust 0.1 {SHORT}",
    "lamb": f"--optimizer lamb --lr 0.025 {SHORT}",
    "muon": f"--optimizer muon --lr 0.025 --vector-lr 0.1 --momentum 0.8 {SHORT}",
}
"""Rule → its flags. The rates are those of batch 4; each was chosen on seed 0 at batch 64."""


@dataclass(frozen=True)
class Cell:
    """One batch and one rule."""

    batch: int
    rule: str

    @property
    def steps(self) -> tuple[int, int]:
        """Steps of the start and of the method; at least one, rounded up."""
        return -(-START * BASE // self.batch), -(-METHOD * BASE // self.batch)

    @property
    def warmup(self) -> int:
        """Steps over which the rates rise: a tenth of the start's; none without scaling."""
        return 0 if self.rule == "none" else -(-self.steps[0] // 10)

    def name(self, seed: int) -> str:
        """Of the run's directory."""
        return f"{self.rule}-{self.batch}-{seed}"

    def words(self, seed: int) -> tuple[str, ...]:
        """Of the run, after `fastass train`."""
        start, method = self.steps
        own = (
            f"--batch {self.batch} --start-steps {start} --steps {method} --warmup {self.warmup} "
            f"--seed {seed} --labelled-seed {seed}"
        )
        return (*TRAINING, *own.split(), *RULES[self.rule].split())


@dataclass(frozen=True)
class Row:
    """The runs of a cell: mIoU in percent by seed, at the end and at the end of the start."""

    batch: int
    rule: str
    steps: tuple[int, int]
    warmup: int
    miou: tuple[float, ...]
    start: tuple[float, ...]
    seconds: tuple[float, ...]


def cells(batches: Sequence[int], rules: Sequence[str]) -> list[Cell]:
    """Every batch with every rule; at the base batch, where scaling does nothing, without the
    rules that are nothing but scaling."""
    scaling = ("sqrt", "linear")
    return [Cell(b, rule) for b in batches for rule in rules if b != BASE or rule not in scaling]


def rows(wanted: Sequence[Cell], seeds: Sequence[int], out: Path) -> list[Row]:
    """The cells of which every seed's run is complete."""
    found = []
    for cell in wanted:
        paths = [out / cell.name(seed) / SUMMARY for seed in seeds]
        if all(path.exists() for path in paths):
            summaries = [read_json(path) for path in paths]
            found.append(
                Row(
                    cell.batch,
                    cell.rule,
                    cell.steps,
                    cell.warmup,
                    tuple(s["miou"] for s in summaries),
                    tuple(s["start"]["miou"] for s in summaries),
                    tuple(s["training_seconds"] for s in summaries),
                )
            )
    return found


def table(of: Sequence[Row]) -> str:
    """Markdown: a line per batch and rule; the difference is to rule `none` at the base batch."""
    base = next((r for r in of if (r.batch, r.rule) == (BASE, "none")), None)
    lines = [
        "| batch per stream | steps | warm-up | rule | mIoU | after the start | to 1× |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in of:
        difference = "–"
        if base is not None and r is not base:
            difference = f"{statistics.mean(r.miou) - statistics.mean(base.miou):+.1f}"
        lines.append(
            f"| {r.batch} ({r.batch // BASE}×) | {r.steps[0]} + {r.steps[1]} | {r.warmup} | "
            f"{r.rule} | {_spread(r.miou)} | {_spread(r.start)} | {difference} |"
        )
    return "\n".join(lines).replace("-", "−").replace("|−−−", "|---")


def _spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def write(path: Path, heading: str, of: Sequence[Row]) -> None:
    """The rows, and the flags of their rules, as JSON."""
    result: dict[str, Any] = {
        "heading": heading,
        "training": list(TRAINING),
        "rules": {rule: RULES[rule] for rule in dict.fromkeys(r.rule for r in of)},
        "rows": [asdict(row) for row in of],
    }
    write_result(path, "fastass bench batch", result)
