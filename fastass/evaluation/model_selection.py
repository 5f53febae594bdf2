"""Three rules for a run's mIoU: the last evaluation, the best on val, the mean of the last few.

The best on val is chosen on the images on which it is reported, so it flatters a run whose score
fluctuates. All three side by side show by how much.
"""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fastass.checkpoint.evaluations import evaluations

LAST_FEW = 5


def selection(
    run: Path, start_steps: int, last: tuple[int, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """mIoU of the reported classes, percent, under each rule, for a run with an evaluation.

    last: the last evaluation, which counts where the metrics were lost.

    The best on val is the evaluation with the highest mIoU over all classes, which RUN/best keeps.
    Evaluations of the supervised start (up to `start_steps`) do not count. `by_statistics` has the
    same rules for each kind of running statistics, where there are two.
    """
    method = [(step, scores) for step, scores in evaluations(run) if step > start_steps]
    if last is not None and last[0] not in dict(method):
        method.append(last)
    kinds = method[-1][1].get("by_statistics") or {}
    by_statistics = {
        kind: _rules(
            [
                (step, s["by_statistics"][kind])
                for step, s in method
                if kind in s.get("by_statistics", {})
            ]
        )
        for kind in kinds
    }
    return {**_rules(method), "by_statistics": by_statistics}


def _rules(method: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Each rule's mIoU. method: (step, miou and reported_miou) of every evaluation, in order."""
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
