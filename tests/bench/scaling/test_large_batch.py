"""`fastass bench batch`: which runs its cells are, its table, and the command."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastass.bench.scaling import large_batch
from fastass.bench.scaling.large_batch import RULES, Cell, Row, cells, table
from fastass.checkpoint.own_files import SUMMARY
from fastass.cli.main import main
from fastass.reproduce import scheduler


@pytest.mark.parametrize(
    ("batch", "steps", "warmup"),
    [(4, (320, 480), 32), (16, (80, 120), 8), (64, (20, 30), 2), (256, (5, 8), 1)],
)
def test_equal_images_are_seen(batch: int, steps: tuple[int, int], warmup: int) -> None:
    cell = Cell(batch, "lamb")
    assert cell.steps == steps
    assert cell.warmup == warmup
    assert Cell(batch, "none").warmup == 0
    for images, count in zip((1280, 1920), steps, strict=True):
        assert images <= batch * count < images + batch


def test_every_rule_is_a_run_that_fastass_accepts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fastass.training import run

    seen: list[Any] = []
    monkeypatch.setattr(run, "train", lambda config, *rest, **more: seen.append(config))
    for cell in cells((4, 64), tuple(RULES)):
        assert main(["train", *cell.words(2), "--plain", "--out", str(tmp_path)]) == 0
        config = seen[-1]
        assert (config.batch, config.seed, config.labelled_seed) == (cell.batch, 2, 2)
        assert (config.start_steps, config.steps) == cell.steps
        assert (config.method, config.mix, config.labelled) == ("ga+csa", False, 20)
        assert config.optim.base_batch == large_batch.BASE
    assert len({cell.name(0) for cell in cells((4, 64), tuple(RULES))}) == len(seen)


def test_scaling_alone_does_nothing_at_the_base_batch() -> None:
    found = [(c.batch, c.rule) for c in cells((4, 16), ("none", "sqrt", "linear", "lamb"))]
    at_16 = [(16, rule) for rule in ("none", "sqrt", "linear", "lamb")]
    assert found == [(4, "none"), (4, "lamb"), *at_16]


def test_the_table_compares_with_the_base() -> None:
    rows = [
        Row(4, "none", (320, 480), 0, (28.0, 29.0), (17.0, 18.0), (1.0, 1.0)),
        Row(64, "sqrt", (20, 30), 2, (20.0, 19.0), (10.0, 10.0), (1.0, 1.0)),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| 4 (1×) | 320 + 480 | 0 | none | 28.5 ± 0.7 | 17.5 ± 0.7 | – |"
    assert lines[3] == "| 64 (16×) | 20 + 30 | 2 | sqrt | 19.5 ± 0.7 | 10.0 ± 0.0 | −9.0 |"
    assert set(lines[1]) == {"|", "-"}


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(runs: Sequence[Any], out: Path, jobs: int, progress: Any) -> list[Path]:
        """Of seed 1 the largest batch fails."""
        assert jobs == 2
        done = [run for run in runs if run.name != "lamb-64-1"]
        for i, run in enumerate(done):
            (out / run.name).mkdir(parents=True)
            summary = {"miou": 20.0 + i, "start": {"miou": 10.0}, "training_seconds": 1.0}
            (out / run.name / SUMMARY).write_text(json.dumps(summary))
        return [out / "lamb-64-1.log"]

    monkeypatch.setattr(scheduler, "run_all", pretend)
    words = "bench batch --batches 4,64 --rules none,lamb --seeds 0,1 --jobs 2".split()
    file = tmp_path / "batch.json"
    assert main([*words, "--out", str(tmp_path / "runs"), "--json", str(file)]) == 1
    printed = capsys.readouterr()
    assert "1 of 8 runs failed, the first: " in printed.err
    assert "| 64 (16×) | 20 + 30 | 0 | none |" in printed.out
    assert "| 64 (16×) | 20 + 30 | 2 | lamb |" not in printed.out
    result = json.loads(file.read_text())
    assert [(row["batch"], row["rule"]) for row in result["rows"]] == [
        (4, "none"),
        (4, "lamb"),
        (64, "none"),
    ]
    assert result["rules"]["lamb"] == RULES["lamb"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--rules", "best"),
            "--rules: 'best' is not one of none, sqrt, linear, lars, lamb, muon",
        ),
        (("--batches", "6"), "--batches: 6 is not a multiple of 4"),
        (("--batches", "0"), "--batches"),
    ],
)
def test_bad_input(words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "batch", *words]) == 2
    assert message in capsys.readouterr().err
