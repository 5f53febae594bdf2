"""`fastass train --rare-class T`: what a run says, draws, resumes and refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ranks import run_ranks
from tiny_runs import assert_same, city, train

from fastass.cli.main import main
from fastass.config.presets import preset
from fastass.method.adaptation import method_spec
from fastass.runtime.process_group import World
from fastass.tracking.progress import Silent
from fastass.training.open_data import open_training_data
from fastass.training.rare_class import rare_class_orders

pytestmark = pytest.mark.usefixtures("user_cache")


@pytest.fixture(scope="module")
def small_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return city(tmp_path_factory.mktemp("city"))


def lines(capsys: pytest.CaptureFixture[str], words: str) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if words in line]


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [r["terms"]["seg_source"] for r in records if "terms" in r]


@pytest.mark.parametrize("on", ["source", "labelled", "both"])
def test_one_line_says_what_is_drawn(
    small_city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], on: str
) -> None:
    flags = ["--rare-class", "0.2", "--rare-class-on", on]
    assert main(train(small_city, tmp_path / "run", *flags)) == 0
    said = lines(capsys, "rare-class sampling")
    images = {"source": ["source"], "labelled": ["labelled target"]}.get(
        on, ["source", "labelled target"]
    )
    assert len(said) == len(images)
    for line, name in zip(said, images, strict=True):
        assert line.startswith(f"rare-class sampling of the {name} images, T = 0.2: ")
        assert "% of the draws" in line
        assert "in no label and can't be drawn" in line  # in three images no train, for example
    # The second run finds the counts.
    assert main(train(small_city, tmp_path / "again", *flags)) == 0
    assert lines(capsys, "counted") == []


def test_it_changes_the_order_of_its_streams_alone(small_city: Path, tmp_path: Path) -> None:
    runs = {}
    for name, flags in (
        ("plain", []),
        ("source", ["--rare-class", "0.05"]),
        ("labelled", ["--rare-class", "0.05", "--rare-class-on", "labelled"]),
    ):
        words = train(small_city, tmp_path / name, *flags)
        assert main([*words, "--start-steps", "6", "--steps", "1"]) == 0
        runs[name] = losses(tmp_path / name)
    assert runs["plain"][:6] == runs["labelled"][:6]  # the start reads the source
    assert runs["plain"][:6] != runs["source"][:6]


def test_resume_is_exact(small_city: Path, tmp_path: Path) -> None:
    flags = ["--rare-class", "0.1", "--rare-class-on", "both"]
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    assert main(train(small_city, calm, *flags)) == 0
    for step in (1, 3, 4):
        assert main(train(small_city, stopped, *flags, "--stop-at", str(step))) == 0
    assert main(train(small_city, stopped, *flags)) == 0
    assert_same(stopped, calm)


def test_oracle_draws_labelled_images(
    small_city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train(small_city, tmp_path / "run", "--rare-class", "1", "--method", "oracle")
    assert main([*words, "--rare-class-on", "both"]) == 0
    said = lines(capsys, "rare-class sampling")
    assert len(said) == 1
    assert "labelled target" in said[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rare-class", "0"], "--rare-class: expected number, above 0, at most 1000, got '0'"),
        (["--rare-class", "-1"], "--rare-class: expected number, above 0"),
        (["--rare-class", "much"], "--rare-class: expected a number"),
        (["--rare-class", "nan"], "--rare-class: "),
        (["--rare-class-on", "labelled"], "has no effect without --rare-class T; give both"),
        (
            ["--rare-class", "1", "--method", "oracle"],
            "draws source images, and method oracle has none; add --rare-class-on labelled",
        ),
        (
            ["--rare-class", "1", "--rare-class-on", "labelled", "--method", "source_only"],
            "this run reads no labelled target images",
        ),
        (
            ["--rare-class", "1", "--rare-class-on", "labelled", "--labelled", "0"],
            "this run reads no labelled target images; give --labelled N",
        ),
    ],
)
def test_bad_input_is_one_line(
    small_city: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert main(train(small_city, tmp_path / "run", *flags)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_damaged_label_stops_the_run_or_is_not_drawn(
    small_city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "city"
    shutil.copytree(small_city, own)
    label = next(iter(sorted((own / "gta5/labels").iterdir())))
    label.write_bytes(label.read_bytes()[:100])
    words = train(own, tmp_path / "run", "--rare-class", "0.1")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert label.name in error
    assert "to train without it: --on-bad-sample skip" in error
    assert main([*words, "--on-bad-sample", "skip"]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["skipped_samples"] == 0


def test_labels_without_a_class(
    small_city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = ["--data-classes", "truck,motorcycle"]
    words = train(small_city, tmp_path / "run", "--rare-class", "0.1", *classes)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "no label of the source images has a pixel of a class" in error
    assert error.count("\n") == 1


def order_of_rank(world: World, root: Path) -> list[int]:
    """The first draws of this rank's order, which rank 0 alone has counted."""
    config = replace(preset("toycity"), method="joint", labelled=2)
    paths = replace(
        config.data,
        source=str(root / "gta5"),
        target=str(root / "cityscapes"),
        source_size=(64, 32),
        target_size=(64, 32),
        rare_class=0.1,
        rare_class_on="both",
    )
    data, _ = open_training_data(replace(config, data=paths), Silent())
    spec = method_spec("joint", 2)
    orders = world.broadcast_from_main(lambda: rare_class_orders(data, spec, Silent()))
    return [orders[s].sample_at(0, s, p) for s in ("source", "labelled") for p in range(30)]


def test_every_rank_has_the_order_of_rank_0(small_city: Path) -> None:
    alone = order_of_rank(World(), small_city)
    assert run_ranks(2, order_of_rank, small_city) == [alone, alone]
