"""The command line: help, wrong words, and each command's own bad input."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastass.cli.main import COMMANDS, main
from fastass.pipelines.toycity import generate


@pytest.mark.parametrize("command", COMMANDS)
def test_help_starts_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"example: fastass {command}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean train?"),
        (["train", "toyctiy"], "did you mean toycity"),
        (["train", "--labeled", "5"], "did you mean --labelled"),
        (["bench", "data", "--fils=x"], "did you mean --files"),
        (["doctor", "now"], "unrecognized arguments: now"),
        (["train", "--method", "gaa"], "--method: unknown value 'gaa'; did you mean ga,"),
        (["bench", "stp"], "PART: unknown value 'stp'; did you mean step"),
        (["train", "--resume", "--overwrite"], "exclude each other"),
        (["train", "toycity", "--config", "x.yaml"], "not both"),
        (["train", "--config", "/nowhere.yaml"], "/nowhere.yaml: no such configuration file"),
        (["train", "toycity", "--data-source", "/nowhere"], "--data-source: /nowhere: no such"),
        (
            ["eval", "/nowhere", "--data", "x", "--json", "/nowhere/x.json"],
            "/nowhere: no such directory, for",
        ),
        (["eval", "/nowhere", "--data", "x"], "/nowhere: no such checkpoint or run"),
        (["pack", "--root", "/nowhere"], "pack needs"),
        (["pack", "--root", "/nowhere", "--size", "8x8", "--out", "x"], "/nowhere: no such"),
        *(
            (words, "s3://b/x: fastass reads and writes local files only")
            for words in (
                ["train", "--out", "s3://b/x"],
                ["train", "--config", "s3://b/x"],
                ["eval", "s3://b/x", "--data", "x"],
                ["eval", "x", "--data", "x", "--json", "s3://b/x"],
                ["predict", "x", "s3://b/x", "--out", "x"],
                ["predict", "x", "x", "--out", "s3://b/x"],
                ["export", "x", "--format", "onnx", "--out", "s3://b/x"],
                ["report", "x", "--out", "s3://b/x"],
                ["pack", "--root", "x", "--size", "8x8", "--out", "s3://b/x"],
                ["pack", "--verify", "s3://b/x"],
                ["toycity", "s3://b/x"],
                ["reproduce", "table1", "--out", "s3://b/x"],
                ["bench", "data", "--size", "8x8", "--json", "s3://b/x"],
            )
        ),
        *(
            (words, "a path is empty; give its name, or . for the current folder")
            for words in (
                ["predict", "x", "", "--out", "x"],
                ["predict", "x", "x", "--out", ""],
                ["eval", "", "--data", "x"],
                ["train", "--out", ""],
            )
        ),
        *(
            (words, "/dev/null: exists and is not a directory; choose another --out")
            for words in (
                ["train", "--out", "/dev/null"],
                ["predict", "x", "x", "--out", "/dev/null/x"],
                ["pack", "--root", "x", "--size", "8x8", "--out", "/dev/null"],
                ["reproduce", "table1", "--toycity", "--out", "/dev/null/a/b"],
                ["bench", "batch", "--out", "/dev/null"],
            )
        ),
        *(
            (words, "a name in this path is longer than 255 bytes; give a shorter one")
            for words in (
                ["predict", "x", "x", "--out", "é" * 128],
                ["export", "x", "--format", "onnx", "--out", f"a/{'x' * 256}"],
                ["toycity", f"{'x' * 256}/a"],
            )
        ),
        (["train", "toycity", "--data-source", ""], "got an empty text; unset is `none`"),
        (["predict", "a"], "required: IMAGES, --out; see `fastass predict --help`"),
    ],
)
def test_wrong_words_get_one_line(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may hold runs
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_current_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["presets"]) == 2
    assert capsys.readouterr().err == (
        "fastass: the current folder was removed; change into another\n"
    )


def test_doctor_tells_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "--amp", "--kernels native", "--kernels triton", "--loader dali", "apex"):
        assert word in out
    for word in ("--backbone timm:NAME", "export onnx", "--log wandb"):
        assert re.search(rf"{re.escape(word)} +(yes|no: not installed; pip install )", out)


def test_presets_show_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert "gta5_to_cityscapes_csa_500" in out
    assert "60.2" in out


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "city"
    generate(root, source=3, target=2, val=1, workers=1)
    return root


def damage(city: Path, kind: str) -> str:
    """Damage the data set; → what the message must name."""
    image = sorted((city / "gta5" / "images").iterdir())[0]
    label = city / "gta5" / "labels" / image.name
    val = next((city / "cityscapes" / "gtFine" / "val").rglob("*_labelIds.png"))
    match kind:
        case "image without label":
            label.unlink()
            return f"{image}: image without label"
        case "label without image":
            image.unlink()
            return f"{label}: label without image"
        case "another size":
            Image.open(image).resize((64, 32)).save(image)
            return "64x32"
        case "truncated":
            image.write_bytes(image.read_bytes()[:2000])
            return str(image)
        case "value outside the table":
            picture = Image.open(label)
            values = np.array(picture)
            values[0, 0] = 77
            changed = Image.fromarray(values)
            changed.putpalette([0] * 768)
            changed.save(label)
            return "label value 77"
        case "nothing to evaluate":
            empty = Image.fromarray(np.zeros_like(np.array(Image.open(val))))
            empty.save(val)
            return "no class was evaluated"
        case "layout":
            (city / "gta5" / "images").rename(city / "gta5" / "pictures")
            return "layout not recognised; looked for"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "image without label",
        "label without image",
        "another size",
        "truncated",
        "value outside the table",
        "nothing to evaluate",
        "layout",
    ],
)
def test_damaged_data_is_named(
    city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    copy = tmp_path / "city"
    shutil.copytree(city, copy)
    expected = damage(copy, kind)
    words = (
        "train toycity --method ga --labelled 1 --steps 2 --start-steps 0 --batch 3 --plain "
        "--model-width 16 --discriminator-width 4 --source-size 64x32 --target-size 64x32"
    ).split()
    data = ["--data-source", str(copy / "gta5"), "--data-target", str(copy / "cityscapes")]
    assert main([*words, *data, "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_pack_and_verify(city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "packed"
    words = ["pack", "--root", str(city / "gta5"), "--size", "64x32", "--out", str(out)]
    assert main([*words, "--workers", "1"]) == 0
    assert "3 packed, 0 kept, 0 bad" in capsys.readouterr().out
    assert main(["pack", "--verify", str(out)]) == 0
    assert "sound: 1 shards, 3 records" in capsys.readouterr().out
    shard = out / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    assert main(["pack", "--verify", str(out)]) == 2
    assert "shard-00000.tar" in capsys.readouterr().out
