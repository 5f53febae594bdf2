"""The paper's claims against records made up to show them, and not to."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastass.cli.main import main
from fastass.report.plane import plane
from fastass.reproduce.centroid_plot import centroid_plot
from fastass.reproduce.claims import claims, class_distances, markdown
from fastass.reproduce.comparison import gains
from fastass.reproduce.figure import svg
from fastass.reproduce.grids import grid

Records = list[dict[str, Any]]


def record(method: str, labelled: int, values: list[float], **more: Any) -> dict[str, Any]:
    last = {"values": values, "mean": sum(values) / len(values) if values else None}
    return {
        "method": method,
        "labelled": labelled,
        "seeds": list(range(len(values))),
        "last": last,
        "part": "",
        "lambda_sadv": None,
        **more,
    }


def table1(oracle: dict[int, float], ga: dict[int, float], sa: dict[int, float]) -> Records:
    rows = []
    for method, figures in (("oracle", oracle), ("ga", ga), ("ga+fcsa", sa), ("ga+csa", sa)):
        rows += [record(method, n, [value, value + 1]) for n, value in figures.items()]
    return rows


def table2(*means: float) -> Records:
    λs = (1.0, 0.1, 0.01, 0.001)
    return [
        record("ga+csa", 10, [mean], part="(b) CSA", lambda_sadv=λ)
        for λ, mean in zip(λs, means, strict=True)
    ]


CLOSER = {"start": [0.5], "Joint": [0.4], "GA": [0.3], "GA+FCSA": [0.2], "GA+CSA": [0.1]}


def test_the_papers_own_figures_show_its_claims() -> None:
    oracle, ga, sa = {50: 39.5, 1000: 58.6}, {50: 50.0, 1000: 58.0}, {50: 50.1, 1000: 64.5}
    found = claims(table1(oracle, ga, sa), table2(59.76, 59.46, 60.16, 59.67), CLOSER)
    assert [claim.letter for claim in found] == list("abcde")
    assert all(claim.outcome.startswith("shown") for claim in found)
    assert "GA+CSA − oracle: 50: +10.6 ± 0.0, 1000: +5.9 ± 0.0" in found[0].evidence
    assert found[1].evidence == "+10.6 → +5.9"
    assert "GA+CSA − GA: 50: +0.1 ± 0.0, 1000: +6.5 ± 0.0" in found[2].evidence
    assert found[3].outcome == "shown (at most 0.7 points)"
    assert markdown(found).count("\n") == 6


def test_a_difference_within_the_spread_of_the_seeds_is_none() -> None:
    oracle, ga = {5: 30.0, 50: 40.0}, {5: 35.0, 50: 41.0}
    rows = [
        r for r in table1(oracle, ga, {5: 35.0}) if r["labelled"] == 5 or "+" not in r["method"]
    ]
    rows += [record(f"ga+{kind}", 50, [41.5, 41.6]) for kind in ("fcsa", "csa")]
    found = claims(rows, [], {})[2]
    assert found.outcome.startswith("in part: GA's gain fades")
    assert found.outcome.endswith("no higher than GA's with 50 beyond the spread of the seeds")


def test_what_is_not_shown_is_said() -> None:
    oracle, ga, sa = {5: 30.0, 50: 40.0}, {5: 31.0, 50: 39.0}, {5: 29.0, 50: 39.5}
    far = {**CLOSER, "GA": [0.45], "GA+FCSA": [0.45], "GA+CSA": [0.45]}
    a, b, c, d, e = claims(table1(oracle, ga, sa), table2(50.0, 52.0, 52.0, 52.0), far)
    assert a.outcome == "shown with no labelled images, not with 5, 50"
    assert b.outcome == "not shown"
    assert c.outcome.startswith("not shown: GA's gain fades, that of GA+SA does not stay positive")
    assert d.outcome == "not shown for (b) CSA, 10 images (2.0 points)"
    assert e.outcome == "closer than at the start, but no closer than without adaptation"
    strong = claims([], [], {**far, "GA+CSA λ 1": [0.3]})[4]
    assert strong.outcome.startswith("shown by GA+CSA λ 1: closer")
    sometimes = claims(table1({5: 30.0, 50: 40.0}, ga, {5: 33.0, 50: 39.0}), [], {})
    assert sometimes[0].outcome == "shown with 5 labelled images, not with 50"


def test_nothing_run() -> None:
    found = claims([record("oracle", 5, [])], [], {})
    assert {claim.outcome for claim in found} == {"not run"}
    half = claims([record("oracle", 5, [30.0]), record("ga", 5, [33.0])], [], {})
    assert {claim.outcome for claim in half} == {"not run"}


def test_gains_pair_the_seeds() -> None:
    rows = [record("oracle", 5, [30.0, 40.0]), record("ga", 5, [33.0])]
    assert gains(rows, "ga", "oracle") == {5: [3.0]}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Class means of a start and of two GA+CSA runs."""
    classes = {
        name: {"distance": 0.2, "source": [i, 0.0], "target": [i, 1.0]}
        for i, name in enumerate(("road", "sky"))
    }
    for name, distance in (
        ("start-seed0", 0.5),
        ("ga_csa-10-seed0", 0.2),
        ("ga_csa-10-λ1-seed0", 0.1),
        ("joint-50-seed0", 0.4),
    ):
        (tmp_path / name).mkdir()
        means = {"explained": 0.7, "mean_distance": distance, "classes": classes}
        (tmp_path / name / "class_means.json").write_text(json.dumps({"last": means}))
    return tmp_path


def test_distances_are_read_from_the_runs(runs: Path) -> None:
    table1, table2 = (grid(name, None, toycity=True) for name in ("table1", "table2"))
    found = class_distances(table1, table2, runs, range(2))
    assert {name: values for name, values in found.items() if values} == {
        "start": [0.5],
        "Joint": [0.4],
        "GA+CSA": [0.2],
        "GA+CSA λ 1": [0.1],
    }
    assert found["GA"] == found["GA+FCSA λ 1"] == []


def test_the_command_writes_claims_and_a_picture(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "claims", "--toycity", "--no-train", "--out", str(runs)]) == 0
    assert "| (a) | Adapted models beat" in capsys.readouterr().out
    assert {path.name for path in (runs / "claims").iterdir()} == {
        "claims.json",
        "claims.md",
        "class_means.svg",
    }
    picture = ET.parse(runs / "claims" / "class_means.svg")
    texts = [text.text for text in picture.findall(".//{*}text")]
    assert texts.count("road") == texts.count("sky") == 2  # the start, and `joint`
    assert "Joint, 50 labelled images" in texts
    assert main(["reproduce", "claims", "--no-train"]) == 2
    assert "needs --toycity" in capsys.readouterr().err


def test_the_picture_shows_every_mean_where_the_report_has_it(runs: Path) -> None:
    means = json.loads((runs / "start-seed0" / "class_means.json").read_text())["last"]
    figure = centroid_plot([("<a & b>", means), ("other", means)])
    assert ET.fromstring(svg(figure)) is not None
    expected = plane(means)
    for axes in figure.axes:
        source, target = (np.asarray(points.get_offsets()).tolist() for points in axes.collections)
        assert source == [[*mean.source] for mean in expected.means]
        assert target == [[*mean.target] for mean in expected.means]
        begins = [tuple(np.asarray(line.get_xydata())[0]) for line in axes.lines]
        assert begins == [mean.source for mean in expected.means]


def test_flatness_compares_the_same_seeds() -> None:
    """A cell with a luckier seed set than its neighbours' is no sign of a steep λ."""
    one_seed = table2(35.0, 35.1, 35.2, 35.3)
    one_seed[0] = record("ga+csa", 10, [35.0, 25.0], part="(b) CSA", lambda_sadv=1.0)
    found = claims(table1({50: 30.0}, {50: 31.0}, {50: 32.0}), one_seed, CLOSER)
    assert found[3].outcome == "shown (at most 0.3 points)"
