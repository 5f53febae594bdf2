"""The report reads any run directory and writes one page that needs nothing else."""

import itertools
import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser

from fastass.cli.main import main
from fastass.config.presets import preset
from fastass.config.text import override, to_yaml
from fastass.inference.visualize import save_example
from fastass.pipelines.datasets.classes import CITYSCAPES
from fastass.report import compare, curves
from fastass.report.plane import plane
from fastass.report.run_record import read_run

NAMES = list(CITYSCAPES.names)


def scores(shift: float) -> dict[str, Any]:
    confusion = np.eye(19, dtype=int) * 700 + np.arange(361).reshape(19, 19) % 7
    per_class: dict[str, float | None] = {
        name: min(100.0, shift + 2 * i) for i, name in enumerate(NAMES)
    }
    per_class["train"] = None
    return {
        "miou": shift + 17,
        "reported_miou": shift + 17,
        "reported_classes": 19,
        "per_class_iou": per_class,
        "confusion": confusion.tolist(),
    }


def make_run(path: Path, name: str = "toycity", *, examples: int = 2, **changes: Any) -> Path:
    """A finished run, without training."""
    config = override(preset(name), changes).resolved()
    start_steps, total = config.start_steps, config.total_steps
    path.mkdir()
    (path / "config.yaml").write_text(to_yaml(config))
    lines: list[dict[str, Any]] = [
        {
            "step": step,
            "lr": 0.1,
            "skipped": 0,
            "images_per_second": 40.0,
            "data_wait": 0.03,
            "terms": {"seg_source": 1 / step, "gadv": math.log(step)},
        }
        for step in range(10, total + 1, 10)
    ]
    lines += [{"step": s, "eval": scores(v)} for s, v in ((start_steps, 5), (total, 30))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = scores(5) if start_steps else None
    summary = {
        **scores(30),
        "start": start,
        "images_per_second": 41.3,
        "training_seconds": 174.2,
        "peak_memory_mib": 663.1,
        "device": "cpu",
        "kernels": "native",
        "amp": "off",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "selection": {
            "best": 51.04,
            "best_step": 550,
            "mean_of_last": 46.5,
            "std_of_last": 0.52,
            "evaluations_in_mean": 5,
        },
    }
    (path / "summary.json").write_text(json.dumps(summary))
    means = {
        "mean_distance": 0.5,
        "explained": 0.6,
        "classes": {
            n: {"distance": 0.1 * i, "source": [i, i % 3], "target": [i, 1.0]}
            for i, n in enumerate(NAMES)
        },
    }
    (path / "class_means.json").write_text(json.dumps({"start": means, "last": means}))
    rng = np.random.default_rng(0)
    for i in range(examples):
        photo = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)
        truth = np.repeat(np.arange(20, dtype=np.uint8), 4)[None].repeat(40, 0)
        truth[truth == 19] = 255
        labels = {"truth": truth, "start": truth * 0, "last": np.minimum(truth, 18)}
        save_example(path / "examples", i, photo, labels, CITYSCAPES)
    return path


class Page(HTMLParser):
    """What the tests ask of the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(*runs: Path) -> Page:
    out = runs[0].parent / "report.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    return Page(out)


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
    # Table 5's row "ours 50" is the GA column's.
    row = compare.paper_row({**settings, "preset": "synthia_to_cityscapes_csa_50", "labelled": 50})
    assert row is not None
    assert (row.miou, row.classes) == (57.4, {})


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
    assert "nowhere/x.html: can't write: No such file" in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if CHROMIUM is None:
        pytest.skip("no chromium")
    root = tmp_path_factory.mktemp("pages")
    runs = [make_run(root / "a"), make_run(root / "b", seed=1)]
    report(*runs)
    with browser(root / "profile") as opened:
        yield opened, root / "report.html"


def test_in_a_browser(page: tuple[Browser, Path]) -> None:
    view, path = page
    for width in (1280, 360):
        view.open(path, width)
        assert view.run("document.documentElement.scrollWidth") <= width
        assert view.complaints() == []
        assert view.requests() == [path.as_uri()]


def test_the_slider_moves_by_mouse_and_keys(page: tuple[Browser, Path]) -> None:
    view, path = page
    view.open(path)
    view.run(
        "document.querySelector('.compare').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    at = "getComputedStyle(document.querySelector('.compare')).getPropertyValue('--x').trim()"
    assert view.run(at) == "50%"
    box = view.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('.compare').getBoundingClientRect())"
    )
    y = box[1] + box[3] * 0.5
    view.drag((box[0] + box[2] * 0.5, y), (box[0] + box[2] * 0.2, y))
    moved = float(view.run(at).rstrip("%"))
    assert 10 < moved < 30
    view.key("ArrowRight")
    assert float(view.run(at).rstrip("%")) == moved + 1
    view.key("Home")
    assert view.run(at) == "0%"


def test_curves_and_pictures_tell_their_values(page: tuple[Browser, Path]) -> None:
    view, path = page
    view.open(path)
    view.run("document.querySelector('.plot').focus()")
    view.key("Home")
    said = "document.querySelector('.plot').getAttribute('aria-valuetext')"
    assert view.run(said) == "step 300: a 22.0, b 22.0"
    view.key("ArrowRight")
    assert view.run(said) == "step 800: a 47.0, b 47.0"
    view.run("document.querySelector('.probe').focus()")
    view.key("ArrowLeft")
    read = view.run("document.querySelector('.example .reading').textContent")
    assert read.startswith("truth: terrain · before adaptation: road · after adaptation: terrain")
    assert view.complaints() == []
