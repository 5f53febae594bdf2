"""`fastass predict` over many files: damaged ones, resuming, several paths, formats, ownership.

Looked for the kind "stops at one damaged file": images, frames of a video, every format; and at
what else writes many files (pack and train have --on-bad-sample of their own).
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import fastass
from fastass.cli.main import main
from fastass.inference import writer
from fastass.inference.segmenter import levels


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images; the second is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    values = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        pixels = values.integers(0, 256, (40, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    return folder


def names(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_a_damaged_image_is_skipped_and_counted(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(trained, photos, "--out", out, "--format", "color") == 2
    assert "b.png: damaged image file" in capsys.readouterr().err
    words = ("--format", "color", "--on-bad-sample", "skip")
    assert predict(trained, photos, "--out", out, *words) == 1
    captured = capsys.readouterr()
    assert "2 images: " in captured.out
    first, last = captured.err.splitlines()
    assert first.startswith(f"skipped: {photos / 'b.png'}: damaged image file")
    assert last == "fastass: 1 damaged files, see above; 2 images have a result"
    assert names(out) == {"a_color.png", "c_color.png", writer.SETTINGS}


def test_resuming_predicts_what_is_missing(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = (photos, "--out", out, "--format", "trainIds,color", "--resume")
    assert predict(trained, *words) == 2  # it stops at b
    assert names(out) >= {"a_color.png", "a_trainIds.png"}
    before = (out / "a_color.png").stat().st_mtime_ns
    Image.new("RGB", (72, 40)).save(photos / "b.png")
    (out / ".c_color.png.tmp").write_text("torn")  # of a killed process
    capsys.readouterr()
    assert predict(trained, *words) == 0
    assert "2 images (1 more were there already)" in capsys.readouterr().out
    assert (out / "a_color.png").stat().st_mtime_ns == before
    assert {f"{n}_{f}.png" for n in "abc" for f in ("trainIds", "color")} <= names(out)
    changed = (out / "c_color.png").read_bytes()
    Image.new("RGB", (72, 40), "red").save(photos / "c.png")  # another image of that name
    assert predict(trained, *words) == 0
    assert "1 image (2 more were there already)" in capsys.readouterr().out
    assert (out / "c_color.png").read_bytes() != changed
    for other, why in (("--flip", "flip"), ("--scales", "scales")):
        more = [other] if other == "--flip" else [other, "2"]
        assert predict(trained, *words, *more) == 2
        assert f"made with another {why}" in capsys.readouterr().err
    (out / writer.SETTINGS).write_text("[" * 100_000)
    assert predict(trained, *words) == 2
    assert "predict.json: damaged" in capsys.readouterr().err
    (out / writer.SETTINGS).unlink()
    assert predict(trained, *words) == 2
    assert "leave out --resume" in capsys.readouterr().err
    assert predict(trained, *words[:-1]) == 0


def test_several_paths(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").unlink()
    other = tmp_path / "more" / "deep"
    other.mkdir(parents=True)
    for name in ("a.png", "d.webp"):
        Image.new("RGB", (40, 30)).save(other / name)
    form = ("--format", "color")
    out = tmp_path / "flat"
    assert predict(trained, *sorted(photos.iterdir()), "--out", out, *form) == 0  # a shell's glob
    assert names(out) == {"a_color.png", "c_color.png", writer.SETTINGS}
    out = tmp_path / "nested"
    capsys.readouterr()
    assert predict(trained, photos, other.parent, "--out", out, *form) == 0
    assert names(out) == {
        "photos/a_color.png", "photos/c_color.png", "more/deep/a_color.png",
        "more/deep/d_color.png", writer.SETTINGS,
    }  # fmt: skip
    assert f"4 images: {out}/**/*_color.png" in capsys.readouterr().out
    Image.new("RGB", (9, 9)).save(photos / "a.bmp")
    both = (photos / "a.png", photos / "a.bmp")
    assert predict(trained, *both, "--out", out, *form) == 2
    assert "its result would have the name of" in capsys.readouterr().err


FORMATS = ["png", "jpg", "bmp", "tiff", "gif", "ppm", "tga", "webp", "avif", "jp2", "pcx", "ico"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(trained: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = tmp_path / f"photo.{suffix}"
    pixels = np.random.default_rng(1).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    assert predict(trained, image, "--out", tmp_path / "out", "--format", "trainIds") == 0
    found = np.asarray(Image.open(tmp_path / "out" / "photo_trainIds.png"))
    network = fastass.load(trained, device="cpu")
    np.testing.assert_array_equal(found, network.predict(image))
    plain = tmp_path / "photo"  # the content says what it is
    image.rename(plain)
    if suffix not in ("tga", "jp2"):
        assert predict(trained, plain, "--out", tmp_path / "again", "--format", "trainIds") == 0


def test_an_input_is_never_replaced(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.png", "x_color.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    before = (tmp_path / "x_color.png").read_bytes()
    assert predict(trained, tmp_path, "--out", tmp_path, "--format", "color") == 2
    assert "x_color.png: the result would replace an input" in capsys.readouterr().err
    assert (tmp_path / "x_color.png").read_bytes() == before


def test_a_file_of_the_user_is_never_replaced(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The truth of a data set may have the name that a result would get."""
    truth = tmp_path / "labels" / "a_labelIds.png"
    truth.parent.mkdir()
    Image.new("L", (40, 40)).save(truth)
    before = truth.read_bytes()
    words = (photos / "a.png", "--format", "labelIds", "--out")
    assert predict(trained, *words, truth.parent) == 2
    message = capsys.readouterr().err
    assert "a_labelIds.png: exists and is no result of fastass predict; choose" in message
    assert truth.read_bytes() == before
    for _ in range(2):  # results are replaced
        assert predict(trained, *words, tmp_path / "out") == 0


def test_one_process_writes_results(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastass.pipelines.file_lock import locked

    with locked(tmp_path / writer.LOCK, "predicting into it"):
        assert predict(trained, photos / "a.png", "--out", tmp_path) == 2
    message = capsys.readouterr().err
    assert "is predicting into it; wait for it, or choose another --out" in message
    assert predict(trained, photos / "a.png", "--out", tmp_path) == 0
    assert json.loads((tmp_path / writer.SETTINGS).read_text())["flip"] is False


def test_a_pil_image_is_turned_as_its_file_would_be(tmp_path: Path) -> None:
    """EXIF orientation 6, in a file and in a PIL image of it: the same upright pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 72, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = levels(tmp_path / "turned.png", 3)
    assert upright.shape == (72, 40, 3)
    with Image.open(tmp_path / "turned.png") as image:
        assert np.array_equal(levels(image, 3), upright)
    assert np.array_equal(levels(Image.fromarray(pixels), 3), pixels)


def test_what_a_folder_holds_beside_images_is_named(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.png").unlink()
    (photos / "day").mkdir()
    (photos / "day/drive.MP4").touch()
    (photos / "phone.heic").touch()
    assert predict(trained, photos, "--out", tmp_path / "out") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        f"left out: {photos}/day/drive.MP4 and 1 more: no format of images that fastass reads; "
        "a video needs its own path"
    )
