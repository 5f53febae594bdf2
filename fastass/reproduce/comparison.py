"""What stands beside a table's figures: each kind of running statistics, differences to `joint`,
the network on held-out source images, and which seeds and versions the figures are of."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Any, get_args

from tabulate import tabulate

from fastass.config.schema import NormStatistics
from fastass.reproduce.grids import HEADS

Record = dict[str, Any]
REFERENCE = "joint"  # what every method of ToyCity is measured against
BETTER = "better"  # of the kinds of statistics, for each cell by itself
TITLES = {
    "mixed": "mixed statistics",
    "domain": "domain statistics (the target's)",
    BETTER: "each cell with its better statistics",
}


def kinds_of(records: Sequence[Record]) -> tuple[str, ...]:
    """The kinds of running statistics that the runs were evaluated with; empty if only one."""
    known = {kind for record in records for kind in record["by_statistics"]}
    return tuple(kind for kind in get_args(NormStatistics) if kind in known)


def with_statistics(records: Sequence[Record], kind: str) -> list[Record]:
    """The records with the figures of one kind of running statistics, or of the `better` one.

    A cell without both kinds has mixed statistics: its runs are older, or kept only these.
    """
    return [_with_statistics(record, kind) for record in records]


def _with_statistics(record: Record, kind: str) -> Record:
    kinds: Mapping[str, Record] = record["by_statistics"]
    if not kinds:
        return record if kind != "domain" else {**record, **_without_figures(record)}
    if kind == BETTER:
        kind = max(kinds, key=lambda name: kinds[name]["last"]["mean"])
    return {**record, **kinds[kind]}


def _without_figures(record: Record) -> Record:
    nothing: Record = {"values": [], "mean": None, "std": None}
    rules = [k for k, v in record.items() if isinstance(v, dict) and "values" in v]
    return {"seeds": [], **dict.fromkeys(rules, nothing)}


def gains(records: Sequence[Record], method: str, over: str) -> dict[int, list[float]]:
    """Labelled images → mIoU of `method` minus that of `over`, seed by seed; last evaluations."""
    by_cell = {(r["method"], r["labelled"]): r for r in records}
    differences = {}
    for labelled in dict.fromkeys(r["labelled"] for r in records):
        ours, theirs = by_cell.get((method, labelled)), by_cell.get((over, labelled))
        if ours is None or theirs is None:
            continue
        reference = dict(zip(theirs["seeds"], theirs["last"]["values"], strict=True))
        pairs = zip(ours["seeds"], ours["last"]["values"], strict=True)
        values = [value - reference[seed] for seed, value in pairs if seed in reference]
        if values:
            differences[labelled] = values
    return differences


def differences(records: Sequence[Record]) -> str:
    """Each method minus `joint`, seed by seed, with each kind of statistics; "" without `joint`.

    A figure is the mean ± its standard error over the seeds that both have, and their number.
    """
    if not any(r["method"] == REFERENCE and r["seeds"] for r in records):
        return ""
    sections = []
    for kind in [*kinds_of(records), BETTER] if kinds_of(records) else [""]:
        own = with_statistics(records, kind) if kind else list(records)
        table = _difference_table(own)
        if table:
            title = f", {TITLES[kind]}" if kind else ""
            sections.append(
                f"Minus {HEADS[REFERENCE]}, seed by seed, the last evaluation{title}; "
                f"mean ± standard error (seeds):\n\n{table}"
            )
    return "\n\n".join(sections)


def _difference_table(records: Sequence[Record]) -> str:
    methods = [m for m in HEADS if m != REFERENCE and any(r["method"] == m for r in records)]
    by_method = {m: gains(records, m, REFERENCE) for m in methods}
    by_method = {m: values for m, values in by_method.items() if values}
    counts = sorted({n for values in by_method.values() for n in values})
    lines = [
        [str(n), *(with_error(values[n]) if n in values else "–" for values in by_method.values())]
        for n in counts
    ]
    heads = ["# labelled", *(HEADS[m] for m in by_method)]
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True) if lines else ""


def with_error(values: Sequence[float]) -> str:
    """Mean ± standard error of differences, and their number."""
    error = f" ± {stdev(values) / sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{mean(values):+.1f}{error} ({len(values)})"


def held_out_source(records: Sequence[Record]) -> str:
    """mIoU on source images that no run was trained on, beside the target's; "" if not measured."""
    measured = [r for r in records if r["source"]]
    if not measured:
        return ""
    lines = []
    known = {kind for r in measured for kind in r["source"]}
    kinds = [kind for kind in get_args(NormStatistics) if kind in known]
    for record in measured:
        own = [record["source"].get(kind, {}).get("mean") for kind in kinds]
        target = [record["by_statistics"].get(kind, record)["last"]["mean"] for kind in kinds]
        figures = [f"{value:.1f}" if value is not None else "–" for value in (*own, *target)]
        lines.append([str(record["labelled"]), HEADS[record["method"]], *figures])
    heads = ["# labelled", "method", *(f"{d}, {k}" for d in ("source", "target") for k in kinds)]
    table = tabulate(lines, heads, tablefmt="github", disable_numparse=True)
    return f"Held-out source beside the target, the last evaluation, mean over seeds:\n\n{table}"


def provenance(records: Sequence[Record]) -> str:
    """Seeds, versions and devices of the complete runs, in a few lines; "" if there are none."""
    done = [r for r in records if r["seeds"]]
    by_seeds: dict[str, list[str]] = {}
    for r in done:
        λ = f" λ {r['lambda_sadv']:g}" if r["lambda_sadv"] is not None else ""
        name = f"{HEADS[r['method']]} {r['labelled']}{λ}"
        by_seeds.setdefault(", ".join(map(str, r["seeds"])), []).append(name)
    lines = [f"Seeds {seeds}: {', '.join(names)}." for seeds, names in by_seeds.items()]
    versions = [each for r in done for each in r["versions"]]
    texts = {", ".join(f"{name} {number}" for name, number in v.items()) for v in versions}
    lines += [f"Versions: {text}." for text in sorted(texts)]
    devices = sorted({device for r in done for device in r["device"]})
    return "\n".join([*lines, *([f"Device: {'; '.join(devices)}."] if devices else [])])
