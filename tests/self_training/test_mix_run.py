"""A whole run with --mix: it resumes to the bit, logs what it mixes, and refuses bad input."""

import json
from pathlib import Path

import pytest
import tiny_runs

from fastass.checkpoint.run_directory import METRICS
from fastass.cli.main import main

MIX = ("--mix", "--batch", "2", "--accumulate", "1")


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.city(tmp_path_factory.mktemp("data") / "city")


@pytest.mark.parametrize("method", ["joint", "ga+csa"])
def test_a_resumed_run_is_exact(city: Path, tmp_path: Path, method: str) -> None:
    calm, run = tmp_path / "calm", tmp_path / "run"
    words = (*MIX, "--method", method)
    assert main(tiny_runs.train(city, calm, *words)) == 0
    for stop in ("1", "3", "5"):
        assert main([*tiny_runs.train(city, run, *words), "--stop-at", stop]) == 0
    assert main(tiny_runs.train(city, run, *words)) == 0
    tiny_runs.assert_same(run, calm)
    weights = tiny_runs.weights(run)
    teacher = {n.removeprefix("teacher.") for n in weights if n.startswith("teacher.")}
    assert teacher == {n.removeprefix("generator.") for n in weights if n.startswith("generator.")}
    records = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    mixing = [r for r in records if "terms" in r and r["step"] > 2]
    assert all(r["terms"]["mix"] > 0 for r in mixing)
    assert all(0 < r["mixing"]["pasted"] < 1 for r in mixing)
    assert all(0 <= r["mixing"]["confidence"] <= 1 for r in mixing)
