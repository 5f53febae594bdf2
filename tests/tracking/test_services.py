"""Other places for the metrics: only when asked for, and never in training's way."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tiny_runs import SMALL

import fastass
from fastass.config.text import as_text
from fastass.errors import UserError
from fastass.tracking.services import SERVICES, Loggers, check_services, scalars

CONFIG = as_text(fastass.preset("toycity"))
RECORD = {"step": 7, "lr": 0.1, "terms": {"seg_source": 0.5}, "data_wait": 0.0}
EVAL = {
    "step": 7,
    "eval": {"miou": 50.0, "per_class_iou": {"road": 90.0, "sky": None}, "confusion": [[1]]},
}


class FakeWandb(ModuleType):
    """What of wandb is used."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **given: Any) -> SimpleNamespace:
        self.inits.append(given)
        return SimpleNamespace(id=given["id"] or "abc", log=self.log, finish=self.finish)

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def Image(self, path: str) -> str:  # noqa: N802
        return Path(path).name


class FakeMlflow(ModuleType):
    """What of mlflow is used."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[str, Any]] = []

    def set_experiment(self, name: str) -> None:
        self.calls.append(("experiment", name))

    def start_run(self, run_id: str | None, run_name: str | None) -> SimpleNamespace:
        self.calls.append(("start", (run_id, run_name)))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "m1"))

    def log_params(self, values: dict[str, str]) -> None:
        self.calls.append(("params", values))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("metrics", (step, values)))

    def log_artifact(self, path: str) -> None:
        self.calls.append(("artifact", Path(path).name))

    def end_run(self) -> None:
        self.calls.append(("end", None))


def test_scalars_are_the_numbers_by_joined_names() -> None:
    assert dict(scalars({"terms": {"gadv": 1}, "lr": 2.0})) == {"loss/gadv": 1.0, "lr": 2.0}
    assert dict(scalars({"eval": EVAL["eval"]})) == {
        "val/miou": 50.0,
        "val/per_class_iou/road": 90.0,
    }


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        with Loggers(tmp_path, ["wandb"], CONFIG, pytest.fail) as loggers:
            loggers.log(RECORD)
            loggers.log(EVAL)
    assert [given["id"] for given in fake.inits] == [None, "abc"]
    assert fake.inits[0]["config"]["optim.lr"] == "0.025"
    assert fake.inits[0]["project"] == "fastass"
    assert fake.logged[0] == (7, {"lr": 0.1, "loss/seg_source": 0.5, "data_wait": 0.0})
    assert fake.logged[1] == (7, {"val/miou": 50.0, "val/per_class_iou/road": 90.0})
    assert fake.finished == 2


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for _ in range(2):
        with Loggers(tmp_path / "a", ["mlflow"], CONFIG, pytest.fail) as loggers:
            (tmp_path / "a").mkdir(exist_ok=True)
            loggers.log(EVAL)
    kinds = [kind for kind, _ in fake.calls]
    assert kinds == [
        "experiment",
        "start",
        "params",
        "metrics",
        "end",
        "experiment",
        "start",
        "metrics",
        "end",
    ]
    assert fake.calls[1] == ("start", (None, "a"))
    assert fake.calls[6] == ("start", ("m1", None))


def test_a_service_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    lines: list[str] = []
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(fake, "log", lambda values, step: 1 / 0)
    with Loggers(tmp_path, ["wandb"], CONFIG, lines.append) as loggers:
        loggers.log(RECORD)
        loggers.log(RECORD)
    assert lines == ["--log wandb failed; the run continues without it: division by zero"]


def test_a_run_logs_what_its_metrics_hold(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    data = {"data_source": str(city / "gta5"), "data_target": str(city / "cityscapes")}
    fastass.train("toycity", out=tmp_path / "run", plain=True, log="wandb", **{**SMALL, **data})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    *logged, (last, shown) = fake.logged
    assert [json.loads(line)["step"] for line in lines] == [step for step, _ in logged]
    assert "val/miou" in logged[-1][1]
    assert (last, shown) == (logged[-1][0], {"examples": "contact_sheet.png"})
    assert fake.finished == 1


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    code = """
import sys
from pathlib import Path
from fastass.tracking.services import Loggers
for first in (1, 2):
    with Loggers(Path("."), ["tensorboard"], {}, sys.exit) as loggers:
        for step in (first, first + 1):
            loggers.log({"step": step, "terms": {"gadv": first + step / 10}})
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator("tensorboard")
events.Reload()
print([(e.step, round(e.value, 2)) for e in events.Scalars("loss/gadv")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("[(1, 1.1), (2, 2.2), (3, 2.3)]")


def test_tensorboard_keeps_the_configuration_pictures_and_what_a_killed_run_logged(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    Image.new("RGB", (8, 4), "red").save(tmp_path / "sheet.png")
    code = """
import os, sys
from pathlib import Path
from fastass.tracking.services import Loggers
loggers = Loggers(Path("."), ["tensorboard"], {"optim.lr": "0.1"}, sys.exit)
loggers.log({"step": 1, "terms": {"gadv": 0.5}})
if len(sys.argv) > 1:
    loggers.show(1, Path("sheet.png"))
    loggers.log({"step": 2, "terms": {"gadv": 0.25}})
os._exit(0)  # as a kill: nothing is closed
"""
    read = """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator("tensorboard")
events.Reload()
print([e.step for e in events.Scalars("loss/gadv")])
if events.Tags()["images"]:
    print([(e.step, e.width, e.height) for e in events.Images("examples")])
print(events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode())
"""

    def run(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    run(code)
    assert run(read).startswith("[1]\n")
    run(code, "whole")
    seen = run(read)
    assert seen.startswith("[1, 2]\n[(1, 8, 4)]\n")
    assert "| optim.lr | `0.1` |" in seen


@pytest.mark.parametrize(("resumed_at", "first"), [(None, 510), (500, 501)])
def test_a_service_learns_where_a_run_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed_at: int | None, first: int
) -> None:
    """What was logged at the step of the checkpoint stays: TensorBoard purges from the next on."""
    opened = []

    def service(run: Path, config: object, step: int) -> SimpleNamespace:
        opened.append(step)
        return SimpleNamespace(log=lambda step, values: None, close=lambda: None)

    monkeypatch.setitem(SERVICES, "tensorboard", service)
    with Loggers(tmp_path, ["tensorboard"], {}, pytest.fail) as loggers:
        loggers.resumed_at = resumed_at
        loggers.log({"step": 510})
        loggers.log({"step": 520})
    assert opened == [first]


def test_a_missing_package_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("wandb", "mlflow", "tensorboard"):
        with pytest.raises(UserError, match=f"--log {name}: .*; pip install {name}$"):
            check_services([name])
    with pytest.raises(UserError, match="log: unknown value 'wandv'; did you mean wandb"):
        fastass.train("toycity", log="wandv")


def test_nothing_is_imported_unasked() -> None:
    code = (
        "import sys, fastass; fastass.train; import fastass.cli.main;"
        "assert not {'wandb', 'mlflow', 'tensorboard', 'onnx', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
