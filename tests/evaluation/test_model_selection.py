"""The three rules by which an evaluation of a run is reported."""

import json
from pathlib import Path

import pytest

from fastass.checkpoint.evaluations import evaluations
from fastass.evaluation.model_selection import selection


def write(run: Path, *evals: tuple[int, float, float]) -> Path:
    lines = [{"step": 10, "lr": 0.1, "terms": {}}]
    for step, miou, reported in evals:
        lines.append({"step": step, "eval": {"miou": miou, "reported_miou": reported}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_last_best_and_mean_of_the_last_few(tmp_path: Path) -> None:
    values = [(step, 30.0 + step, 40.0 + step) for step in (1, 2, 3, 4, 5, 6)]
    run = write(tmp_path, *values, (7, 50.0, 41.0), (8, 31.0, 60.0))
    found = selection(run, start_steps=0)
    assert found["last"] == 60.0
    assert (found["best"], found["best_step"]) == (41.0, 7)  # the best over all classes
    assert found["mean_of_last"] == pytest.approx((44 + 45 + 46 + 41 + 60) / 5)
    assert found["evaluations_in_mean"] == 5
    assert [step for step, _ in evaluations(run)] == list(range(1, 9))


def test_the_start_is_not_the_methods(tmp_path: Path) -> None:
    found = selection(write(tmp_path, (5, 90.0, 90.0), (8, 20.0, 20.0)), start_steps=5)
    assert (found["last"], found["best"], found["best_step"]) == (20.0, 20.0, 8)
    assert found["std_of_last"] is None
