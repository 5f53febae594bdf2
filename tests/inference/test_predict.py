"""`fastass predict` and `fastass eval`: what they read, what they write, what they refuse."""

import errno
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastass
from fastass.cli.main import main
from fastass.errors import UserError
from fastass.inference.stage_timer import WARM_UP, StageClock
from fastass.inference.writer import label_ids
from fastass.pipelines.datasets.classes import CITYSCAPES, GTA5, ClassTable


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "berlin").mkdir(parents=True)
    values = np.random.default_rng(0)
    for name in ("berlin/berlin_000000_000019_leftImg8bit.png", "b.jpg"):
        pixels = values.integers(0, 256, (40, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


def test_formats(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(trained, photos, "--out", out, "--format", "trainIds,labelIds,color") == 0
    found = {p.relative_to(out).as_posix() for p in out.rglob("*.png")}
    stems = ("b", "berlin/berlin_000000_000019")  # the server looks for city_sequence_frame*.png
    assert found == {f"{s}_{f}.png" for s in stems for f in ("trainIds", "labelIds", "color")}
    network = fastass.load(trained, device="cpu")
    image = photos / "berlin" / "berlin_000000_000019_leftImg8bit.png"
    train_ids = network.predict(image)
    at = out / "berlin"
    np.testing.assert_array_equal(
        np.asarray(Image.open(at / "berlin_000000_000019_trainIds.png")), train_ids
    )
    raw = Image.open(at / "berlin_000000_000019_labelIds.png")
    assert (raw.mode, raw.size) == ("L", (72, 40))
    np.testing.assert_array_equal(CITYSCAPES.encode(np.asarray(raw), "raw"), train_ids)
    color = np.asarray(Image.open(at / "berlin_000000_000019_color.png"))
    assert isinstance(train_ids, np.ndarray)
    np.testing.assert_array_equal(color, network.colorize(train_ids))


def test_label_ids_go_by_name() -> None:
    few = GTA5.subset(["person", "road"])
    np.testing.assert_array_equal(label_ids(few), [24, 7])
    with pytest.raises(UserError, match="no class 'lane'"):
        label_ids(ClassTable("own", ("road", "lane"), ((0, 0, 0), (1, 1, 1)), {}))


def test_views_change_the_prediction_as_in_python(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    words = "--scales 0.5,1 --flip --tile 48x32 --overlap 8 --size 60x36 --format trainIds".split()
    assert predict(trained, photos / "b.jpg", "--out", tmp_path, *words) == 0
    expected = fastass.load(trained, device="cpu").predict(
        photos / "b.jpg", scales=(0.5, 1), flip=True, tile=(48, 32), overlap=8, size=(60, 36)
    )
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b_trainIds.png")), expected)


def test_fps_is_measured(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(trained, photos, "--out", tmp_path / "o", "--fps", "--format", "trainIds") == 0
    out = capsys.readouterr().out
    assert "2 images:" in out
    found = re.search(r"([\d.]+) images/s \(([\d.]+) the network alone\): (.*); mean of (\d+)", out)
    assert found
    parts = re.findall(r"(\w+) ([\d.]+) ms", found[3])
    assert [name for name, _ in parts] == ["read", "prepare", "network", "write"]
    assert sum(float(spent) for _, spent in parts) == pytest.approx(1000 / float(found[1]), rel=0.1)
    assert int(found[4]) >= 20


def test_the_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = StageClock(torch.device("cpu"))
    for _ in range(WARM_UP + 4):
        with clock.stage("network"):
            next(now)
        clock.next()
    assert clock.images == 4
    assert clock.seconds == {"network": 8}


def write_video(path: Path, frames: int) -> None:
    """Of noise, five frames per second, each frame from the one before."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(frames):
            pixels = noise.integers(0, 256, (32, 64, 3), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_video(trained: Path, tmp_path: Path, suffix: str) -> None:
    path = (tmp_path / "ride").with_suffix(suffix)
    write_video(path, 3)
    assert predict(trained, path, "--out", tmp_path / "out", "--format", "overlay") == 0
    names = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.png"))
    assert names == [f"ride/00000{i}_overlay.png" for i in range(3)]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_a_damaged_video_is_told(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
    damage: str,
) -> None:
    """A decoder would fill up what is missing from the frames before, or end early."""
    path = (tmp_path / "ride").with_suffix(suffix)
    write_video(path, 20)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    if damage == "cut":
        del data[middle:]
    else:
        data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    words = (trained, path, "--format", "trainIds", "--out")
    assert predict(*words, tmp_path / "out") == 2
    assert re.search(
        "ride.*: (damaged|truncated) video|ride.*: can't be read", capsys.readouterr().err
    )
    assert predict(*words, tmp_path / "skipped", "--on-bad-sample", "skip") in (1, 2)
    results = len(list(tmp_path.rglob("skipped/ride/*.png")))
    assert results < 20
    if results:
        assert f"1 damaged files, see above; {results} images" in capsys.readouterr().err


def test_video_without_pyav(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "a.mp4").touch()
    assert predict(trained, tmp_path / "a.mp4", "--out", tmp_path) == 2
    assert "pip install av; or give a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "words", "message"),
    [
        ("empty", [], "no images"),
        ("nowhere", [], "nowhere: no such file or folder"),
        ("bad.png", [], "bad.png: damaged image file"),
        ("bad.mp4", [], "bad.mp4: damaged video"),
        ("good.png", ["--format", "labelids"], "unknown value 'labelids'; did you mean labelIds"),
        ("good.png", ["--format", ","], "give one or more of trainIds"),
        ("good.png", ["--scales", "a"], "--scales: expected a number, got 'a'"),
        ("good.png", ["--scales", "-1"], "--scales: expected number, 0.05 to 20"),
        ("good.png", ["--tile", "9"], "--tile: expected 2 values (WxH)"),
        ("good.png", ["--overlap", "9"], "give --tile"),
        ("good.png", ["--size", "0x3"], "--size: expected whole number, 1 to"),
        ("good.png", ["--flop"], "did you mean --flip"),
    ],
)
def test_bad_input_gets_one_line(
    images: str,
    words: list[str],
    message: str,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("bad.png", "bad.mp4"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n none")
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    assert predict(trained, tmp_path / images, "--out", tmp_path / "out", *words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_the_result_of_eval_outlives_its_output(
    trained: Path, city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that can't be printed does not lose what took the time."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            if "mIoU" in text:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    monkeypatch.setattr("sys.stdout", Full())
    words = ["eval", str(trained), "--data", str(city / "cityscapes"), "--device", "cpu"]
    assert main([*words, "--json", str(tmp_path / "scores.json")]) == 2
    assert "miou" in json.loads((tmp_path / "scores.json").read_text())


def test_eval_with_views(
    trained: Path, city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(trained), "--data", str(city / "cityscapes"), "--device", "cpu"]
    scores = []
    for more in ([], ["--scales", "0.5,1,2", "--flip"]):
        assert main([*words, *more, "--json", str(tmp_path / "scores.json")]) == 0
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
    counts = [np.array(each["confusion"]) for each in scores]
    np.testing.assert_array_equal(counts[0].sum(1), counts[1].sum(1))
    assert (counts[0] != counts[1]).any()
    summary = json.loads((trained / "summary.json").read_text())
    assert scores[0]["miou"] == pytest.approx(summary["miou"])


def test_eval_of_other_classes(
    trained: Path, city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own").mkdir()
    val = city / "cityscapes"
    for name, part in (("images", "leftImg8bit"), ("labels", "gtFine")):
        tail = "labelIds" if name == "labels" else "leftImg8bit"
        (tmp_path / "own" / name).mkdir()
        file = next((val / part / "val").rglob(f"*{tail}.png"))
        (tmp_path / "own" / name / "0.png").write_bytes(file.read_bytes())
    (tmp_path / "own" / "classes.yaml").write_text("names: [a, b]\n")
    words = ["eval", str(trained), "--data", str(tmp_path / "own"), "--device", "cpu"]
    assert main(words) == 2
    assert "its classes (a, b, …) are not those of the network" in capsys.readouterr().err
