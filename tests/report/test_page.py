"""The report reads any run directory and writes one page that needs nothing else."""

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
from report_pages import make_run, report, scores

from fastass.cli.main import main
from fastass.report import compare, curves
from fastass.report.plane import plane
from fastass.report.run_record import read_run


def test_one_page_without_anything_outside_it(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1, labelled=10))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    html = (tmp_path / "report.html").read_text()
    assert "http" not in html.replace("http-equiv", "")
    assert "@import" not in html
    assert "url(" not in html
    assert all(image.get("alt") for image in page.all("img"))
    assert len(page.all("h1")) == 1
    headings = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {link["href"] for link in page.all("a")}
    assert targets <= {f"#{name}" for name in ids}


def test_shows_every_run_and_what_differs(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "first"), make_run(tmp_path / "second", labelled=10))
    differs = page.text[page.text.index("What differs") : page.text.index("Point at a curve")]
    assert "first" in differs
    assert "second" in differs
    assert "labelled" in differs
    assert "steps" not in differs
    assert [line.get("class") for line in page.all("path")].count("line run-1") >= 2
    assert "41.3 images/s" in page.text
    assert "2 min 54 s" in page.text
    assert "51.0 at step 550" in page.text
    assert "46.5 ± 0.5" in page.text
    assert " predicted as " in page.text


def test_shows_both_statistics_and_how_the_run_was_made(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "a"))
    assert "the target's statistics 48.5 · mixed statistics 47.0" in page.text
    assert "fastass train toycity --seed 3" in page.text
    assert "2026-11-29 08:00 UTC" in page.text
    assert "c0ffee" in page.text
    assert page.text.index("Losses of the discriminators") > page.text.index("Learning rate")
    older = make_run(tmp_path / "older")
    summary = json.loads((older / "summary.json").read_text())
    for key in ("by_statistics", "norm_statistics", "finished", "command", "commit"):
        del summary[key]
    (older / "summary.json").write_text(json.dumps(summary))
    lines = [json.loads(line) for line in (older / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("lr", None)
        line.get("eval", {}).pop("by_statistics", None)
    (older / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = report(older).text
    assert "mixed statistics" not in text
    assert "Learning rate" not in text
    assert "47.0" in text


def test_a_start_in_another_run(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", examples=0)
    checkpoint = first / "checkpoints" / "step-00000300"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").touch()
    (first / "last").symlink_to("checkpoints/step-00000300")
    run = make_run(tmp_path / "run", examples=0, start_steps=0, seed=1, init=str(first / "last"))
    start = read_run(run).start
    assert start is not None
    assert start.miou == 22.0
    assert "before adaptation 22.0" in report(run).text


def test_names_are_escaped(tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script>" onload="x'.replace("/", "∕")
    page = report(make_run(tmp_path / hostile), make_run(tmp_path / "b"))
    assert len(page.all("script")) == 1
    assert not [a for _, a in page.tags if "onload" in a]
    assert "alert(1)" in page.text


def test_a_preset_is_held_against_the_paper(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "a", "gta5_to_cityscapes_csa_500"))
    assert "paper 60.2 (Table 1, row 500, GA+CSA)" in page.text
    assert len([b for b in page.all("b") if (b.get("style") or "").startswith("left:")]) == 19
    settings = {"preset": "gta5_to_cityscapes_csa_500", "method": "ga+csa", "labelled": 499}
    assert compare.paper_row(settings) is None
    assert compare.paper_row({**settings, "labelled": 500}) is not None
    assert compare.paper_row({**settings, "labelled": 500, "mix": True}) is None
    for own in ({"data.target_layout": "folder"}, {"model.num_classes": 5}):
        assert compare.paper_row({**settings, "labelled": 500, **own}) is None
    # Table 5's row "ours 50" is the GA column's.
    row = compare.paper_row({**settings, "preset": "synthia_to_cityscapes_csa_50", "labelled": 50})
    assert row is not None
    assert (row.miou, row.classes) == (57.4, {})


def test_the_labelled_images_of_a_list_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", labelled_list="/elsewhere/names.txt")
    (run / "labelled.txt").write_text("one\ntwo\nthree\n")
    assert "3 labelled images" in report(run).text


def test_a_long_value_is_shortened() -> None:
    columns = [{"model.backbone_config": "x" * 500 + end} for end in "ab"]
    (row,) = compare.settings(columns)
    assert row.differs
    assert {len(text) for text in row.texts} == {100}
    assert row.texts[0].endswith("x…")


def test_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a")
    for name in ("summary.json", "class_means.json"):
        (run / name).unlink()
    shutil.rmtree(run / "examples")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 790, "ter')
    page = report(run)
    assert "unfinished" in page.text
    assert "800 of 800" in page.text
    notes = capsys.readouterr().err.splitlines()
    assert [note.partition(": ")[2].split(":")[0] for note in notes] == [
        str(run / "summary.json"),
        str(run / "class_means.json"),
    ]


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", examples=0)
    for name in ("summary.json", "class_means.json", "metrics.jsonl"):
        (run / name).unlink()
    assert "not evaluated yet" in report(run).text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", '{"miou": 1}'),
        ("summary.json", "[]"),
        ("summary.json", "{"),
        ("summary.json", json.dumps({**scores(3), "confusion": [[1]]})),
        ("class_means.json", '{"last": {"classes": {"road": {"distance": 1}}}}'),
        ("class_means.json", '{"last": 3}'),
        ("class_means.json", '{"last": {"classes": {}, "explained": 1, "mean_distance": null}}'),
        ("metrics.jsonl", '{"step": 10, "terms": 3}\n{"step": 20}\n'),
        ("metrics.jsonl", '{"step": "x"}\n[]\n{"step": 20}\n'),
        ("examples/0.jpg", "no image"),
        ("examples/1-truth.png", "no image"),
        ("examples/1-last.png", None),
    ],
)
def test_damage_is_one_line(
    tmp_path: Path, name: str, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a")
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    page = report(run)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("note: ") for line in lines)
    assert (
        name.rpartition("/")[2].partition("-")[0].partition(".")[0] in lines[0]
        or "class" in lines[0]
    )
    assert all(line.removeprefix("note: ") in page.text for line in lines)


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    run = make_run(tmp_path / "a", examples=0)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.yaml").write_text("a: [")
    for runs, words in (
        ([tmp_path / "nowhere"], "not a run"),
        ([tmp_path], "runs in it: a, damaged"),
        ([tmp_path / "damaged"], "not valid YAML"),
        ([run, run], "given twice"),
        ([run] * 9, "too many"),
    ):
        assert main(["report", *map(str, runs), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not out.exists()
    assert main(["report", str(run), "--out", str(tmp_path / "nowhere" / "x.html")]) == 2
    assert "nowhere: no such directory, for x.html" in capsys.readouterr().err


def test_a_file_of_the_user_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", examples=0)
    for _ in range(2):  # an earlier page is replaced
        assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    before = (run / "config.yaml").read_bytes()
    assert main(["report", str(run), "--out", str(run / "config.yaml")]) == 2
    assert "config.yaml: exists and is not a page of fastass report" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == before


def test_ticks_are_round_and_cover() -> None:
    for low, high in ((0, 0.8), (0, 41.2), (0, 150_000), (-3, 7), (0, 0), (0, 3e-7)):
        found = curves.ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high * (1 - 1e-9)
        assert 2 <= len(found) <= 7
    assert [curves.short(v) for v in (0, 0.5, 1500, 2_000_000)] == ["0", "0.5", "1.5k", "2M"]


def test_long_curves_are_thinned_by_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(1, 15_001)]
    thin = curves.thin(points)
    assert len(thin) <= curves.MOST_POINTS
    assert thin[-1][0] == 15_000
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(0.5, abs=0.01)
    chart = curves.chart("x", "", [curves.Series(0, "a", [(1, math.nan), (2, 3.0)])])
    assert chart is not None
    assert chart.reading[0]["values"][0][:2] == (2, "3.000")
    assert curves.chart("x", "", [curves.Series(0, "a", [(1, math.inf)])]) is None


def test_the_plane_keeps_proportions() -> None:
    classes = {
        "a": {"distance": 1, "source": [0, 0], "target": [10, 0]},
        "b": {"distance": 1, "source": [0, 5], "target": [0, 5]},
    }
    found = plane({"classes": classes, "explained": 1, "mean_distance": 1})
    a, b = found.means
    assert a.target[0] - a.source[0] == pytest.approx(2 * (a.source[1] - b.source[1]), abs=0.3)
    assert all(0 <= x <= 420 and 0 <= y <= 340 for m in found.means for x, y in (m.source, m.label))
