"""What the paper claims about the method, compared with the runs of ToyCity's Tables 1 and 2."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from tabulate import tabulate

from fastass.checkpoint.json_file import read_result
from fastass.checkpoint.own_files import CLASS_MEANS
from fastass.config.schema import LAMBDA_SADV
from fastass.reproduce.comparison import Record, gains
from fastass.reproduce.grids import HEADS, Grid, start_name

FLAT = 1.0  # points of mIoU between the best and the worst λ; the paper's own Table 2 spans 0.7
ADAPTED = ("ga", "ga+fcsa", "ga+csa")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, whether the runs show it, and the figures that say so."""

    letter: str
    text: str
    outcome: str
    evidence: str


def claims(
    table1: Sequence[Record], table2: Sequence[Record], distances: dict[str, list[float]]
) -> list[Claim]:
    """Claims (a) to (e). distances: see `class_distances`."""
    return [
        _better_than_oracle(table1),
        _gain_shrinks(table1),
        _semantic_stays(table1),
        _flat(table2),
        _closer(distances),
    ]


def _better_than_oracle(records: Sequence[Record]) -> Claim:
    over_oracle = {method: gains(records, method, "oracle") for method in ADAPTED}
    best = over_oracle["ga+csa"]
    wins = [n for n, values in best.items() if mean(values) > 0]
    if not best:
        outcome = "not run"
    elif len(wins) == len(best):
        outcome = "shown"
    else:
        lost = [str(n) for n in best if n not in wins]
        outcome = f"shown with {_list(wins)} labelled images, not with {', '.join(lost)}"
    evidence = "; ".join(
        f"{HEADS[m]} − oracle: {_by_count(g)}" for m, g in over_oracle.items() if g
    )
    return Claim("a", "Adapted models beat the oracle at every count", outcome, evidence)


def _gain_shrinks(records: Sequence[Record]) -> Claim:
    means = [mean(values) for values in gains(records, "ga+csa", "oracle").values()]
    pairs = list(itertools.pairwise(means))
    if not pairs:
        outcome = "not run"
    elif all(after < before for before, after in pairs):
        outcome = "shown"
    else:
        outcome = "shown in tendency" if means[-1] < means[0] else "not shown"
    text = "The gain over the oracle shrinks as labels grow"
    return Claim("b", text, outcome, " → ".join(f"{value:+.1f}" for value in means))


def _semantic_stays(records: Sequence[Record]) -> Claim:
    alone = gains(records, "ga", "oracle")
    with_sa = {m: gains(records, m, "oracle") for m in ("ga+fcsa", "ga+csa")}
    over_ga = {m: gains(records, m, "ga") for m in ("ga+fcsa", "ga+csa")}
    most = max(alone, default=0)
    if not most or any(most not in g for g in with_sa.values()):
        outcome = "not run"
    else:
        fades = mean(alone[most]) < mean(alone[min(alone)])
        stays = all(mean(g[most]) > 0 for g in with_sa.values())
        fade = "GA's gain fades" if fades else "GA's gain does not fade"
        stay = "stays positive" if stays else "does not stay positive"
        ahead = all(_beyond_seeds(g[most]) for g in over_ga.values())
        shown = "shown" if fades and stays and ahead else "in part" if stays else "not shown"
        outcome = f"{shown}: {fade}, that of GA+SA {stay}"
        if not ahead:
            word = "but" if stays else "and"
            outcome += f", {word} no higher than GA's with {most} beyond the spread of the seeds"
    evidence = "; ".join(f"{HEADS[m]} − GA: {_by_count(g)}" for m, g in over_ga.items() if g)
    return Claim("c", "GA alone fades with many labels, GA+SA stays positive", outcome, evidence)


def _beyond_seeds(differences: list[float]) -> bool:
    """Whether a difference is above zero by more than its standard deviation over seeds."""
    return len(differences) > 1 and mean(differences) > stdev(differences)


def _flat(records: Sequence[Record]) -> Claim:
    spans: dict[str, tuple[float, str]] = {}
    for part in dict.fromkeys(r["part"] for r in records):
        for labelled in dict.fromkeys(r["labelled"] for r in records if r["part"] == part):
            row = [r for r in records if (r["part"], r["labelled"]) == (part, labelled)]
            means = _means_of_common_seeds(row)
            if len(means) > 1:
                span = max(means.values()) - min(means.values())
                listed = ", ".join(f"λ {λ:g}: {value:.1f}" for λ, value in means.items())
                spans[f"{part}, {labelled} images"] = (span, listed)
    if not spans:
        outcome = "not run"
    elif all(span <= FLAT for span, _ in spans.values()):
        outcome = f"shown (at most {max(s for s, _ in spans.values()):.1f} points)"
    else:
        steep = [f"{name} ({span:.1f} points)" for name, (span, _) in spans.items() if span > FLAT]
        outcome = f"not shown for {', '.join(steep)}"
    evidence = "; ".join(f"{name}: {listed}" for name, (_, listed) in spans.items())
    return Claim("d", "λ_sadv is flat over two orders of magnitude", outcome, evidence)


def _means_of_common_seeds(row: Sequence[Record]) -> dict[float, float]:
    """λ → mean mIoU over the seeds that all cells of the row have, of those that have any."""
    runs = [dict(zip(r["seeds"], r["last"]["values"], strict=True)) for r in row]
    common = set.intersection(*({*run} for run in runs if run)) if any(runs) else set()
    pairs = zip(row, runs, strict=True)
    return {r["lambda_sadv"]: mean(run[s] for s in common) for r, run in pairs if run and common}


def _closer(distances: dict[str, list[float]]) -> Claim:
    text = "Features of a class move closer between the domains"
    known = {name: values for name, values in distances.items() if values}
    evidence = ", ".join(f"{name} {_spread(values)}" for name, values in known.items())
    usual = [HEADS[method] for method in ADAPTED]
    if not {"start", HEADS["joint"], *usual} <= known.keys():
        return Claim("e", text, "not run", evidence)
    start, joint = mean(known.pop("start")), mean(known.pop(HEADS["joint"]))
    shown = [name for name, values in known.items() if mean(values) < min(start, joint)]
    if set(usual) <= set(shown):
        outcome = "shown: closer than at the start and than without adaptation"
    elif shown:
        outcome = f"shown by {', '.join(shown)}: closer than at the start and without adaptation"
    elif any(mean(values) < start for values in known.values()):
        outcome = "closer than at the start, but no closer than without adaptation"
    else:
        outcome = "not shown"
    return Claim("e", text, outcome, evidence)


def class_distances(
    table1: Grid, table2: Grid, out: Path, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Network → mean distance of the domains' class means at the end of its runs, where there are.

    The networks: `start`, the columns of Table 1 that see a source, and Table 2's by their λ_sadv;
    all with the numbers of labelled images that both tables have. The distance is that of
    `fastass.evaluation.class_centroids.distances`.
    """
    counts = {cell.labelled for cell in table2.cells}
    runs = {"start": [start_name(seed) for seed in seeds]}
    runs |= {HEADS[method]: [] for method in ("joint", *ADAPTED)}
    for cell in (*table1.cells, *table2.cells):
        if cell.labelled in counts and cell.method != "oracle":
            usual = cell.sadv in (None, LAMBDA_SADV.get(cell.method))
            name = HEADS[cell.method] if usual else f"{HEADS[cell.method]} λ {cell.sadv:g}"
            names = [cell.name(seed) for seed in seeds]
            known = runs.setdefault(name, [])
            known += [run for run in names if run not in known]
    return {name: _read(out, directories) for name, directories in runs.items()}


def _read(out: Path, directories: Sequence[str]) -> list[float]:
    paths = [out / name / CLASS_MEANS for name in directories]
    records = [read_result(p, ("last",)) for p in paths if p.exists()]
    return [record["last"]["mean_distance"] for record in records]


def markdown(claims: Sequence[Claim]) -> str:
    """One row per claim."""
    rows = [[f"({c.letter})", c.text, c.outcome, c.evidence] for c in claims]
    heads = ["", "claim", "outcome on ToyCity", "figures"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _by_count(gains: dict[int, list[float]]) -> str:
    return ", ".join(f"{n}: {_spread(values, '+')}" for n, values in gains.items())


def _spread(values: Sequence[float], sign: str = "") -> str:
    places = ".1f" if sign else ".3f"
    spread = f" ± {stdev(values):{places}}" if len(values) > 1 else ""
    return f"{mean(values):{sign}{places}}{spread}"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "no"
