"""Which evaluation of a run is reported: the last, the best on val, the mean of the last few.

The best on val is chosen on the images it is reported on, so it flatters a run whose score swings;
the three side by side show by how much.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fastass.checkpoint.run_directory import METRICS

LAST_FEW = 5


def evaluations(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """(step, scores) of every evaluation that the run's metrics.jsonl holds, in order."""
    found = []
    for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "eval" in record:
            found.append((record["step"], record["eval"]))
    return found


def selection(run: Path, start_steps: int) -> dict[str, Any]:
    """mIoU of the reported classes, percent, under each rule, for a run with an evaluation.

    The best on val is the evaluation with the highest mIoU over all classes, the one that RUN/best
    keeps. Evaluations of the supervised start (up to `start_steps`) are not the method's.
    """
    method = [(step, scores) for step, scores in evaluations(run) if step > start_steps]
    values = [scores["reported_miou"] for _, scores in method]
    few = values[-LAST_FEW:]
    best_step, best = max(method, key=lambda pair: pair[1]["miou"])
    return {
        "last": values[-1],
        "best": best["reported_miou"],
        "best_step": best_step,
        "mean_of_last": mean(few),
        "std_of_last": stdev(few) if len(few) > 1 else None,
        "evaluations_in_mean": len(few),
    }
