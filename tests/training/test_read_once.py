"""What a run reads and computes once: its checkpoint, its samples, the averaged statistics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastass.checkpoint import files
from fastass.checkpoint.pointers import MODEL, STATE
from fastass.cli.main import main
from fastass.pipelines.toycity import generate
from fastass.training import loop
from fastass.training.data import TrainingData
from fastass.training.step import TrainStep

SMALL = (
    "--method ga+csa --labelled 3 --steps 5 --start-steps 3 --batch 2 --accumulate 2 "
    "--data-source-size 96x56 --data-target-size 96x48 --model-width 16 --discriminator-width 4 "
    "--discriminator-hidden 16 --eval-every 3 --save-every 2 --log-every 1 --plain"
).split()


@pytest.fixture(scope="module")
def toycity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "toycity"
    generate(root, source=5, target=4, val=2, workers=1)
    return root


def arguments(toycity: Path, out: Path, *more: str) -> list[str]:
    data = ["--data-source", str(toycity / "gta5"), "--data-target", str(toycity / "cityscapes")]
    return ["train", "toycity", *SMALL, *data, "--out", str(out), *more]


def test_a_resume_reads_its_checkpoint_once(
    toycity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, read, names = tmp_path / "run", files._read, []

    def counted(path: Path, name: str) -> bytes:
        names.append(name)
        return read(path, name)

    assert main(arguments(toycity, run, "--stop-at", "1")) == 0
    monkeypatch.setattr(files, "_read", counted)
    assert main(["train", "--out", str(run), "--resume", "--plain", "--stop-at", "2"]) == 0
    assert sorted(names) == sorted([MODEL, STATE])


def test_a_resumed_run_reads_on_where_it_stopped(
    toycity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches per step: neither is given anew, neither is left out."""
    run, read, firsts = tmp_path / "run", TrainingData.batches, []

    def batches(self: TrainingData, first: int, *rest: Any) -> Iterator[Any]:
        firsts.append(first)
        return read(self, first, *rest)

    monkeypatch.setattr(TrainingData, "batches", batches)
    assert main(arguments(toycity, run, "--stop-at", "2")) == 0
    assert set(firsts) == {0}  # those of the checks before the run too
    firsts.clear()
    assert main(["train", "--out", str(run), "--resume", "--plain", "--stop-at", "4"]) == 0
    # The start goes on at step 2, the method begins at step 3.
    assert [first for first in firsts if first] == [4, 6]
    firsts.clear()
    assert main(["train", "--out", str(run), "--resume", "--plain", "--stop-at", "5"]) == 0
    assert [first for first in firsts if first] == [8]


def test_statistics_are_averaged_over_the_ranks_once_a_step(
    toycity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the evaluation, and not again by the save that follows it."""
    step, done = TrainStep.step, []

    def stepped(self: TrainStep, *args: Any, **kwargs: Any) -> Any:
        done.append("step")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(TrainStep, "step", stepped)
    monkeypatch.setattr(loop, "average_statistics", lambda *_: done.append("average"))
    every = ["--steps", "2", "--start-steps", "1", "--eval-every", "1", "--save-every", "1"]
    assert main(arguments(toycity, tmp_path / "run", *every)) == 0
    assert done == ["step", "average"] * 3
