"""Training runs: resume is exact, signals save, failures are told, bad input touches nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastass.checkpoint.files import find_checkpoint, read_state, read_weights
from fastass.checkpoint.pointers import MODEL
from fastass.cli.main import main
from fastass.config.presets import preset
from fastass.config.text import override
from fastass.errors import TrainingFailure
from fastass.pipelines.toycity import generate
from fastass.tracking.progress import Plain
from fastass.training import run
from fastass.training.meters import Meters
from fastass.training.step import TrainStep

SMALL = (
    "--method ga+csa --no-mix --labelled 3 --steps 5 --start-steps 3 --batch 2 --accumulate 2 "
    "--data-source-size 96x56 --data-target-size 96x48 --model-width 16 --discriminator-width 4 "
    "--discriminator-hidden 16 --eval-every 3 --save-every 2 --log-every 1 --plain"
).split()
PREDICTIONS = ("-truth.png", "-start.png", "-last.png")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toycity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "toycity"
    generate(root, source=5, target=4, val=2, workers=1)
    return root


def arguments(toycity: Path, out: Path, *more: str) -> list[str]:
    data = ["--data-source", str(toycity / "gta5"), "--data-target", str(toycity / "cityscapes")]
    return ["train", "toycity", *SMALL, *data, "--out", str(out), *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(find_checkpoint(run / "last"))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[dict[str, float]]:
    return [line["terms"] for line in lines(run) if "terms" in line]


def assert_same_run(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for x, y in zip(lines(a), lines(b), strict=True):
        assert x["step"] == y["step"]
        assert x.get("terms") == y.get("terms")
        assert x.get("eval") == y.get("eval")


@pytest.fixture(scope="module")
def straight(toycity: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole run without interruption."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    assert main(arguments(toycity, run)) == 0
    return run


def test_a_run_leaves_what_it_promises(straight: Path) -> None:
    summary = json.loads((straight / "summary.json").read_text())
    wanted = "preset method labelled steps seed miou per_class_iou images_per_second device"
    assert {*wanted.split(), "kernels", "amp", "versions"} <= summary.keys()
    assert len(summary["per_class_iou"]) == 19
    assert (summary["labelled"], summary["steps"], summary["preset"]) == (3, 8, "toycity")
    assert summary["ranks"] == 1
    assert summary["start"]["miou"] >= 0
    assert len((straight / "labelled.txt").read_text().splitlines()) == 3
    assert (straight / "contact_sheet.png").stat().st_size > 1000
    assert sum(map(sum, summary["confusion"])) > 0
    means = json.loads((straight / "class_means.json").read_text())
    assert 0 < means["last"]["classes"]["road"]["distance"] != means["start"]["mean_distance"]
    examples = {path.name for path in (straight / "examples").iterdir()}
    assert examples == {f"{i}{kind}" for i in (0, 1) for kind in (".jpg", *PREDICTIONS)}
    logged = [line["step"] for line in lines(straight) if "terms" in line]
    assert logged == list(range(1, 9))
    assert set(lines(straight)[-2]["terms"]) == {
        "seg_source",
        "seg_target",
        "gadv",
        "sadv",
        "gd_source",
        "gd_target",
        "sd_source",
        "sd_target",
    }


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7])
def test_stopping_and_resuming_changes_no_bit(
    straight: Path, toycity: Path, tmp_path: Path, stop_at: int
) -> None:
    run = tmp_path / "run"
    assert main(arguments(toycity, run, "--stop-at", str(stop_at))) == 0
    assert not (run / "summary.json").exists()
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    assert_same_run(straight, run)


def test_sigterm_saves_and_the_run_goes_on(straight: Path, toycity: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "fastass", *arguments(toycity, run, "--save-every", "1000")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 143, errors
    assert "SIGTERM: saved at step" in errors
    assert "Traceback" not in errors
    assert (run / "last").exists()
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    assert_same_run(straight, run)


def test_a_backward_for_each_stream_gives_the_same_losses(
    straight: Path, toycity: Path, tmp_path: Path
) -> None:
    """Equal within rounding: the streams' gradients are added in another order."""
    run = tmp_path / "run"
    assert main(arguments(toycity, run, "--backward", "streamed")) == 0
    for a, b in zip(losses(straight)[:4], losses(run)[:4], strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("more", [["--kernels", "reference"], ["--loader", "dali"]])
def test_other_operators_and_loaders_train_alike(
    straight: Path, toycity: Path, tmp_path: Path, more: list[str]
) -> None:
    """Equal within rounding: the first steps closely, the rest as far as training amplifies it."""
    if "dali" in more:
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    run = tmp_path / "run"
    assert main(arguments(toycity, run, *more)) == 0
    tolerance = 1e-4 if "reference" in more else 2e-2
    for a, b in zip(losses(straight)[:4], losses(run)[:4], strict=True):
        assert a == pytest.approx(b, rel=tolerance)


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    straight: Path, toycity: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(arguments(toycity, run, "--stop-at", "1")) == 0
    shutil.rmtree(run / "checkpoints")
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    assert_same_run(straight, run)


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(
    straight: Path, toycity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(toycity, run, "--stop-at", "7")) == 0
    damaged = run / "checkpoints" / "step-00000007" / MODEL
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    capsys.readouterr()
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 0
    said = capsys.readouterr().out
    assert f"{damaged}: damaged" in said
    assert "falling back to the checkpoint before it" in said
    assert f"resuming {run} at step 6" in said
    assert_same_run(straight, run)


def test_a_run_killed_before_its_configuration_was_written_starts_over(
    straight: Path, toycity: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "labelled.txt").write_text("half of it")
    (run / ".config.yaml.tmp").write_text("preset:")
    assert main(arguments(toycity, run, "--resume")) == 0
    assert_same_run(straight, run)


def test_other_data_under_a_resumed_run_is_refused(
    toycity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(toycity, run, "--stop-at", "1")) == 0
    (run / "labelled.txt").write_text("another\n")
    assert main(["train", "--out", str(run), "--resume", "--plain"]) == 2
    assert "the target data has changed" in capsys.readouterr().err


def test_the_same_from_the_saved_configuration(straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "again"
    assert main(["train", "--config", str(straight / "config.yaml"), "--out", str(run)]) == 0
    assert_same_run(straight, run)


def test_eval_and_predict_agree_with_the_run(
    straight: Path, toycity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "scores.json"
    data = ["--data", str(toycity / "cityscapes")]
    assert main(["eval", str(straight / "last"), *data, "--json", str(result)]) == 0
    summary = json.loads((straight / "summary.json").read_text())
    assert json.loads(result.read_text())["miou"] == pytest.approx(summary["miou"])
    assert "mIoU" in capsys.readouterr().out

    images = toycity / "cityscapes" / "leftImg8bit" / "val"
    assert main(["predict", str(straight), str(images), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("*_trainIds.png"))) == 2
    assert len(list((tmp_path / "out").rglob("*_overlay.png"))) == 2


@pytest.mark.parametrize("term", ["seg_source", "gadv", "sd_target"])
def test_a_non_finite_loss_stops_with_step_term_and_checkpoint(
    toycity: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    term: str,
) -> None:
    step = TrainStep.step
    calls = 0

    def poisoned(self: TrainStep, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        terms = step(self, *args, **kwargs)
        return terms._replace(**{term: torch.tensor(float("nan"))}) if calls == 6 else terms

    monkeypatch.setattr(TrainStep, "step", poisoned)
    run = tmp_path / "run"
    assert main(arguments(toycity, run, "--log-every", "4")) == 1
    message = capsys.readouterr().err
    assert f"step 6: the loss term {term} is nan" in message
    assert "the last good checkpoint is" in message
    assert read_state(find_checkpoint(run / "last"))["step"] == 4
    assert all(bool(v.isfinite().all()) for v in weights(run).values())


def test_a_non_finite_weight_is_not_saved(
    toycity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainStep.step

    def poisoned(self: TrainStep, *args: Any, **kwargs: Any) -> Any:
        terms = step(self, *args, **kwargs)
        weight = next(self.generator.parameters())
        weight.data[(0,) * weight.dim()] = float("inf")
        return terms

    monkeypatch.setattr(TrainStep, "step", poisoned)
    monkeypatch.setattr(Meters, "flush", lambda self: {})
    config = override(
        preset("toycity"),
        {
            "data.source": str(toycity / "gta5"),
            "data.target": str(toycity / "cityscapes"),
            "data.source_size": "96x56",
            "data.target_size": "96x48",
            "model.width": 16,
            "labelled": 3,
            "start_steps": 0,
            "steps": 1,
            "batch": 1,
            "discriminator.width": 4,
            "discriminator.hidden": 16,
        },
    )
    with pytest.raises(TrainingFailure, match=r"weight generator\..* is not finite"):
        run.train(config, tmp_path / "run", Plain())
    assert not (tmp_path / "run" / "last").exists()


BAD = [
    (["--method", "ga+csb"], "did you mean ga+csa"),
    (["--learning-rate", "1"], "unknown argument '--learning-rate'"),
    (["--steps", "0"], "--steps: expected whole number, at least 1, got"),
    (["--labelled", "5"], "labelled: 5 is more than the 4 target training images"),
    (["--method", "oracle", "--labelled", "0"], "give --labelled N"),
    (["--data-source", "/nowhere"], "/nowhere: no such directory"),
    (["--init", "/nowhere.pth"], "/nowhere.pth"),
    (["--device", "tpu"], "unknown device 'tpu'"),
    (["--kernels", "triton", "--device", "cpu"], "triton"),
    (["--labelled-list", "/nowhere.txt"], "/nowhere.txt"),
    (["--data-report", "tram"], "'tram'"),
    (["--data-report", "road,car,road"], "class 'road' is listed twice"),
    (["--data-classes", "road,car,road"], "class 'road' is listed twice"),
    (["--data-classes", "road,tram"], "'tram'"),
]


@pytest.mark.parametrize(("more", "message"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_gets_one_line_and_touches_nothing(
    toycity: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    run = tmp_path / "run"
    assert main(arguments(toycity, run, *more)) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert not run.exists()


def test_an_existing_run_is_safe(
    straight: Path, toycity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (straight / "summary.json").read_bytes()
    assert main(arguments(toycity, straight)) == 2
    assert "use --resume, --overwrite" in capsys.readouterr().err
    assert main(arguments(toycity, straight, "--resume", "--seed", "5")) == 2
    assert "can't resume with seed = 5" in capsys.readouterr().err
    assert main(arguments(toycity, straight, "--overwrite", "--init", "/nowhere.pth")) == 2
    assert (straight / "summary.json").read_bytes() == before
    assert (straight / "last").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main(arguments(toycity, tmp_path / "mine", "--overwrite")) == 2
    assert "is not a run of fastass" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()
