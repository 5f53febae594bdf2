"""`fastass bench target`: both train from one start, and fastass stops when it is as good."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import city as tiny_city

from fastass.bench.step import target
from fastass.bench.step.batches import Shuffled
from fastass.cli.bench.target import table
from fastass.cli.main import main


def test_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_city(tmp_path / "city")
    monkeypatch.setattr(target, "START_STEPS", 2)
    monkeypatch.setattr(target, "SOURCE_SIZE", "64x32")
    monkeypatch.setattr(target, "TARGET_SIZE", "64x32")
    words = ["--counts", "1", "--seeds", "1", "--steps", "2", "--own-steps", "4", "--every", "1"]
    out = tmp_path / "target.json"
    words += ["--data-source", str(tmp_path / "city" / "gta5")]
    words += ["--data-target", str(tmp_path / "city" / "cityscapes"), "--json", str(out)]
    assert main(["bench", "target", *words]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["labelled"] == 1
    assert 0 <= row["target"] <= 100
    assert row["baseline_seconds"] > 0
    if row["reached"] is None:
        assert (row["steps"], row["ratio"]) == (4, None)
    else:
        assert row["reached"] >= row["target"]
        assert row["ratio"] == pytest.approx(row["baseline_seconds"] / row["seconds"])
    assert "| 1            | 0      |" in capsys.readouterr().out


def test_a_run_ends_at_the_target_or_says_that_it_did_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []

    def trained(
        config: object,
        out: Path,
        progress: object,
        *,
        on_record: target.Callable[[dict[str, object]], None],
    ) -> None:
        for step, miou in ((10, 5.0), (20, 12.0), (30, 15.0)):
            seen.append(step)
            on_record({"step": step, "lr": 0.1})
            on_record({"step": step, "eval": {"miou": miou}})

    monkeypatch.setattr(target, "train", trained)
    config = target.base_config("a", "b")
    reached, _, steps = target.until(12.0, config, tmp_path)
    assert (reached, steps, seen) == (12.0, 20, [10, 20])
    reached, _, steps = target.until(16.0, config, tmp_path)
    assert (reached, steps) == (None, 30)
    rows = [
        target.Result(5, 0, 25.0, 100.0, 25.5, 20.0, 80),
        target.Result(5, 1, 25.0, 100.0, None, 60.0, 300),
    ]
    assert "5.0×" in table(rows)
    assert "not reached in 300 steps" in table(rows)


def test_the_baseline_sees_every_sample_once_per_epoch() -> None:
    class Numbers:
        dataset = range(7)

        def __getitem__(self, i: int) -> int:
            return i

    shuffled = Shuffled(Numbers(), seed=3)  # type: ignore[arg-type]
    epochs = [[shuffled[7 * e + i] for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs == [[shuffled[7 * e + i] for i in range(7)] for e in range(3)]
    assert not np.array_equal(epochs[0], range(7))
