"""`import fastass` as a user of the Python interface."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SMALL

import fastass
from fastass.cli.main import main
from fastass.config.configure import configure
from fastass.errors import DataError, UserError
from fastass.inference.views import Views, labels


@pytest.fixture(scope="module")
def network(trained: Path) -> fastass.Segmenter:
    return fastass.load(trained, device="cpu")


def picture(height: int = 48, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_import_is_light_and_changes_nothing() -> None:
    code = (
        "import sys, os; before = dict(os.environ); import fastass;"
        "heavy = {'torch', 'numpy', 'PIL', 'yaml', 'rich'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert os.environ == before;"
        "assert 'load' in dir(fastass) and dir(fastass) == sorted(fastass.__all__);"
        "fastass.train; assert 'torch' in sys.modules;"
        "assert os.environ == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SPINS = """
import sys
import fastass
from fastass.runtime.openmp import threads_spin
if "early" in sys.argv:
    assert fastass.wait_passively() and "torch" not in sys.modules
import torch
if "late" in sys.argv:
    assert not fastass.wait_passively()
print(threads_spin())
"""


@pytest.mark.parametrize(("call", "spin"), [("early", False), ("late", True), ("never", True)])
def test_openmp_waits_passively_if_asked_before_torch(call: str, spin: bool) -> None:
    own = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", SPINS, call],
        env={name: value for name, value in os.environ.items() if name not in own},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(spin)


def test_the_command_sets_up_openmp_before_torch() -> None:
    code = (
        "import sys; from fastass.__main__ import main; assert 'torch' not in sys.modules;"
        "sys.argv[1:] = ['doctor']; assert main() == 0; assert 'torch' in sys.modules;"
        "from fastass.runtime.openmp import threads_spin; assert not threads_spin()"
    )
    own = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)


def test_a_run_warns_of_spinning_threads(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"data_source": str(city / "gta5"), "data_target": str(city / "cityscapes")}
    for spin in (False, True):
        if spin:
            monkeypatch.delenv("OMP_WAIT_POLICY")
            monkeypatch.delenv("GOMP_SPINCOUNT")
        fastass.train("toycity", out=tmp_path / f"{spin}", plain=True, **{**SMALL, **data})
        heading = capsys.readouterr().out.splitlines()[0]
        assert ("idle OpenMP threads spin" in heading) == spin


def test_train_returns_the_summary(city: Path, tmp_path: Path) -> None:
    summary = fastass.train(
        "toycity",
        out=tmp_path / "run",
        plain=True,
        **{**SMALL, "data.source": str(city / "gta5"), "data.target": str(city / "cityscapes")},
    )
    assert summary["method"] == "ga+csa"
    assert summary["steps"] == 3
    assert 0 <= summary["miou"] <= 100
    assert len(summary["per_class_iou"]) == 19
    again = fastass.train(out=str(tmp_path / "run"), resume=True, plain=True)
    assert again == summary


def test_records_are_copies(city: Path, tmp_path: Path) -> None:
    records: list[dict[str, object]] = []

    def spoil(record: Mapping[str, object]) -> None:
        records.append(dict(record))
        assert isinstance(record, dict)
        record.clear()

    data = {"data.source": str(city / "gta5"), "data.target": str(city / "cityscapes")}
    fastass.train("toycity", out=tmp_path / "run", plain=True, on_record=spoil, **{**SMALL, **data})
    written = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == json.loads(json.dumps(records))
    assert any("eval" in record for record in records)


def test_evaluate_predict_export_and_report(
    trained: Path, city: Path, tmp_path: Path, network: fastass.Segmenter
) -> None:
    data = fastass.open_dataset(city / "cityscapes", split="val")
    scores = fastass.evaluate(network, data)
    assert scores == fastass.evaluate(trained, city / "cityscapes")
    assert main(["eval", str(trained), "--data", str(city / "cityscapes"), "--device", "cpu",
                 "--json", str(tmp_path / "eval.json")]) == 0  # fmt: skip
    assert json.loads((tmp_path / "eval.json").read_text())["miou"] == scores.miou
    np.testing.assert_array_equal(fastass.predict(trained, picture()), network.predict(picture()))
    assert fastass.export(network, tmp_path / "folder", format="safetensors")
    assert fastass.load(tmp_path / "folder", device="cpu").classes == network.classes
    fastass.write_report(trained, tmp_path / "page.html")
    assert "</html>" in (tmp_path / "page.html").read_text()
    with pytest.raises(DataError, match="layout 'x' is unknown"):
        fastass.open_dataset(city / "cityscapes", layout="x")


def test_short_reprs(network: fastass.Segmenter, city: Path) -> None:
    data = fastass.open_dataset(city / "gta5")
    for thing, start in (
        (network, "<Segmenter tiny, 19 classes, "),
        (data, f"<Dataset gta5, {city / 'gta5'}, split train: "),
        (fastass.preset("toycity"), "<Config toycity: joint+mix, tiny, 800 steps>"),
        (fastass.evaluate(network, city / "cityscapes"), "<Scores mIoU "),
    ):
        assert repr(thing).startswith(start)
        assert len(repr(thing)) < 200


CLIENT = """
from collections.abc import Mapping
from pathlib import Path
import numpy as np
import fastass
from fastass.kernels import upsample_cross_entropy

def watch(record: Mapping[str, object]) -> None:
    print(record["step"])

summary: dict[str, object] = fastass.train("toycity", out=Path("runs/x"), on_record=watch, steps=5)
network: fastass.Segmenter = fastass.load("runs/x", device="cpu")
labels = network.predict(np.zeros((4, 4, 3), np.uint8))
miou: float = fastass.evaluate(network, fastass.open_dataset("data", split="val")).miou
line: str = fastass.export(network, "model.onnx", format="onnx")
notes: list[str] = fastass.write_report(["runs/x"])
config: fastass.Config = fastass.preset("toycity")
try:
    fastass.predict("runs/x", "photo.jpg")
except (fastass.UserError, fastass.DataError, fastass.TrainingFailure, fastass.Interrupted) as e:
    print(e)
reveal_type(fastass.load)
fastass.export(network, "model.bin", format="pickle")
"""


def test_a_client_is_type_checked(tmp_path: Path) -> None:
    """mypy sees the package's own types, and one wrong argument."""
    client = tmp_path / "client.py"
    client.write_text(
        CLIENT.replace("import numpy", "from collections.abc import Mapping\nimport numpy")
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=",
         "--cache-dir", str(tmp_path / "cache"), str(client)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert "pickle" in errors[0]
    assert "-> fastass.inference.segmenter.Segmenter" in done.stdout
    assert (Path(fastass.__file__).parent / "py.typed").exists()


def test_names_of_values() -> None:
    config = configure("toycity", {"data_source_size": "64x32", "optim.lr": 1, "d_lr": "0.5"})
    assert config.data.source_size == (64, 32)
    assert (config.optim.lr, config.optim.d_lr) == (1.0, 0.5)
    assert configure(config, {"mirror": False}).data.mirror is False
    assert configure().preset == "toycity"


@pytest.mark.parametrize(
    ("base", "values", "message"),
    [
        ("toycty", {}, "did you mean toycity"),
        (None, {"labeled": 1}, "unknown value 'labeled'; did you mean labelled"),
        (None, {"source": "x"}, "did you mean"),  # of the data, or of ToyCity?
        (None, {"method": "csa"}, "method: unknown value 'csa'; did you mean"),
        (None, {"steps": "many"}, "steps: expected a whole number"),
    ],
)
def test_wrong_words(base: str | None, values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configure(base, values)


def test_every_form_of_image_is_the_same(network: fastass.Segmenter, tmp_path: Path) -> None:
    pixels = picture()
    expected = network.predict(pixels)
    assert isinstance(expected, np.ndarray)
    assert (expected.dtype, expected.shape) == (np.uint8, (48, 80))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels)):
        np.testing.assert_array_equal(network.predict(image), expected)
    batch = network.predict(np.stack([pixels, pixels[::-1]]))
    assert isinstance(batch, np.ndarray)
    np.testing.assert_array_equal(batch[0], expected)
    several = network.predict([pixels, picture(20, 30)])
    assert [p.shape for p in several] == [(48, 80), (20, 30)]


def test_probabilities_and_colours(network: fastass.Segmenter) -> None:
    found = network.probabilities(picture(), scales=(0.5, 1), flip=True)
    assert found.shape == (19, 48, 80)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert found.std() > 0
    predicted = network.predict(picture(), scales=(0.5, 1), flip=True)
    np.testing.assert_array_equal(found.argmax(0), predicted)
    road = np.zeros((2, 3), np.uint8)
    np.testing.assert_array_equal(network.colorize(road)[0, 0], network.classes.colors[0])


def test_prediction_reads_at_the_size_asked_for(network: fastass.Segmenter) -> None:
    pixels = picture()
    batch = network.prepare(pixels, (40, 24))
    assert batch.shape == (1, 3, 24, 40)
    expected = labels(network.generator, batch, (48, 80), Views(), network.runtime)[0]
    np.testing.assert_array_equal(network.predict(pixels, size=(40, 24)), expected)
    with pytest.raises(UserError, match="size"):
        network.predict(pixels, size=(0, 24))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"\[H,W,3\], got uint8 \[4x4\]"),
        (np.zeros((4, 4, 3), np.float32), "got float32"),
        (np.zeros((0, 4, 3), np.uint8), "got uint8"),
        (3, "got int"),
        ("/nowhere.png", "/nowhere.png: cannot be read"),
    ],
)
def test_what_is_no_image(network: fastass.Segmenter, image: object, message: str) -> None:
    with pytest.raises((UserError, DataError), match=message):
        network.predict(image)  # type: ignore[arg-type]


def test_what_holds_no_network(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint or run"):
        fastass.load("/nowhere")
    with pytest.raises(UserError, match="neither a checkpoint"):
        fastass.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        fastass.load(tmp_path)
    with pytest.raises(UserError, match="device: unknown device"):
        fastass.load(trained, device="gpu")
