"""The paper's tables as grids: cells, statistics, the paper's figures beside them, and the runs."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_summaries import write_summary

from fastass.cli.main import main
from fastass.config import paper
from fastass.config.presets import PRESETS
from fastass.errors import UserError
from fastass.pipelines.datasets.classes import CITYSCAPES, SYNTHIA_13
from fastass.reproduce import figure, scheduler
from fastass.reproduce.commands import Commands
from fastass.reproduce.grids import GRIDS, TOYCITY_COUNTS, Cell, grid
from fastass.reproduce.scheduler import CellRun, run_all
from fastass.reproduce.table import markdown, results
from fastass.tracking.progress import Plain


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, without their padding."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_every_cell_of_a_table_is_a_preset() -> None:
    for table, count in (("table1", 25), ("table3", 19)):
        cells = grid(table, None, toycity=False).cells
        source = "gta5" if table == "table1" else "synthia"
        assert [PRESETS[c.preset(source)].miou for c in cells] == [c.paper for c in cells]
        assert len(cells) == count
    for table in ("table2", "table4", "table5"):
        built = grid(table, None, toycity=False)
        assert all(cell.preset(built.source) in PRESETS for cell in built.cells)


def test_table_2_is_the_papers() -> None:
    cells = grid("table2", None, toycity=False).cells
    assert [(c.part, c.labelled, c.sadv, c.paper) for c in cells] == [
        ("(a) FCSA", 100, 1.0, 54.11), ("(a) FCSA", 100, 0.2, 53.87),
        ("(a) FCSA", 100, 0.04, 53.68), ("(a) FCSA", 100, 0.008, 53.96),
        ("(a) FCSA", 500, 1.0, 59.76), ("(a) FCSA", 500, 0.2, 59.29),
        ("(a) FCSA", 500, 0.04, 59.89), ("(a) FCSA", 500, 0.008, 59.74),
        ("(b) CSA", 500, 1.0, 59.76), ("(b) CSA", 500, 0.1, 59.46),
        ("(b) CSA", 500, 0.01, 60.16), ("(b) CSA", 500, 0.001, 59.67),
    ]  # fmt: skip


def test_tables_4_and_5_are_per_class() -> None:
    four, five = (grid(table, None, toycity=False) for table in ("table4", "table5"))
    assert [c.paper for c in four.cells] == [65.9, 50.1, 54.2, 56.0, 60.2, 64.5, 69.1]
    assert [c.paper for c in five.cells] == [73.8, 60.7, 62.1, 64.8, 69.8, 73.0, 77.1]
    assert [c.method for c in four.cells] == ["oracle"] + ["ga+csa"] * 6
    # The paper's rows with 50, 100 and 200 images carry GA's figures.
    assert [c.method for c in five.cells] == ["oracle"] + ["ga"] * 3 + ["ga+csa"] * 3
    for cell in five.cells[1:]:
        assert "Table 5, ours" in PRESETS[cell.preset("synthia")].where
        assert PRESETS[cell.preset("synthia")].miou == cell.paper


def test_the_improve_columns_follow_from_the_tables() -> None:
    for labelled, gain in paper.TABLE_1_IMPROVE.items():
        oracle, _, _, csa = paper.TABLE_1[labelled]
        assert csa is not None
        assert oracle is not None
        assert csa - oracle == pytest.approx(gain)
    for labelled, gain in paper.TABLE_3_IMPROVE.items():
        oracle, ga, csa = paper.TABLE_3[labelled]
        assert None not in (oracle, ga, csa)
        assert max(ga, csa) - oracle == pytest.approx(gain)  # type: ignore[operator,type-var]


def test_tables_share_their_runs() -> None:
    names = {table: {c.name(0) for c in grid(table, None, True).cells} for table in GRIDS}
    assert names["table4"] <= names["table1"]
    assert names["table5"] <= names["table3"]
    assert {"ga_fcsa-10-seed0", "ga_csa-50-seed0"} == names["table1"] & names["table2"] - {
        "ga_fcsa-50-seed0",
        "ga_csa-10-seed0",
    }
    assert "ga_csa-10-λ0.1-seed0" in names["table2"]


def test_toycity_has_its_own_counts_and_no_figure_of_the_paper() -> None:
    cells = grid("table1", (20,), toycity=True).cells
    assert [(c.method, c.labelled) for c in cells] == [
        ("source_only", 0),
        ("oracle", 20),
        ("joint", 20),
        ("control", 20),
        ("ga", 20),
        ("ga+fcsa", 20),
        ("ga+csa", 20),
        ("joint+mix", 20),
        ("ga+csa+mix", 20),
    ]
    assert Cell("control", 20).flags == ["--method", "ga", "--no-mix", "--loss-gadv", "0"]
    assert Cell("ga+csa+mix", 20).flags == ["--method", "ga+csa", "--mix"]
    assert Cell("joint+mix", 20).name(1) == "joint_mix-20-seed1"
    for table in GRIDS:
        cells = grid(table, None, toycity=True).cells
        assert all(cell.paper is None for cell in cells)
    assert len(grid("table1", None, toycity=True).cells) == 4 + 8 * len(TOYCITY_COUNTS)
    without = [c.method for c in grid("table1", (0,), toycity=True).cells]
    assert without == ["source_only", "control", "ga", "joint+mix"]
    chosen = grid("table1", (5, 20), True, ("joint", "joint+mix")).cells
    assert [(c.method, c.labelled) for c in chosen] == [
        (method, n) for n in (5, 20) for method in ("joint", "joint+mix")
    ]


def test_statistics_over_the_complete_runs(tmp_path: Path) -> None:
    table = grid("table1", (50,), toycity=False)
    write_summary(tmp_path, "ga_csa-50-seed0", 50.0, road=90.0, train=None)
    write_summary(tmp_path, "ga_csa-50-seed2", 52.0, road=92.0, train=None)
    records = results(table, tmp_path, range(3))
    csa = next(r for r in records if r["method"] == "ga+csa")
    assert csa["seeds"] == [0, 2]
    assert csa["last"] == {"values": [50.0, 52.0], "mean": 51.0, "std": pytest.approx(2**0.5)}
    assert csa["best"]["values"] == [51.0, 53.0]
    assert csa["mean_of_last"]["mean"] == 50.5
    assert csa["per_class"] == {"road": 91.0, "train": None}
    assert csa["paper"] == 50.1
    assert next(r for r in records if r["method"] == "ga")["last"]["mean"] is None


def test_table_1_in_the_papers_shape(tmp_path: Path) -> None:
    table = grid("table1", (0, 50), toycity=False)
    for seed, (oracle, csa) in enumerate(((40.0, 50.0), (41.0, 52.0))):
        write_summary(tmp_path, f"oracle-50-seed{seed}", oracle)
        write_summary(tmp_path, f"ga_csa-50-seed{seed}", csa)
    write_summary(tmp_path, "ga-50-seed0", 49.0)
    text = markdown(table, results(table, tmp_path, range(2)), ())
    lines = text.splitlines()
    assert lines[:2] == ["The last evaluation:", ""]
    assert re.fullmatch(r"(\|-+){6}\|", lines[3])
    assert [cells(line) for line in (lines[2], *lines[4:6])] == [
        ["# labelled", "Oracle", "GA", "GA+FCSA", "GA+CSA", "Improve"],
        ["0", "–", "not run (paper 42.4)", "–", "–", "–"],
        [
            "50",
            "40.5 ± 0.7 (paper 39.5)",
            "49.0 (paper 50.0)",
            "not run (paper 50.2)",
            "51.0 ± 1.4 (paper 50.1)",
            "+10.5 ± 0.7 (paper +10.6)",
        ],
    ]
    assert "best evaluation on val" in text
    assert re.search(r" \| 50.0 \(paper 50.0\) +\| ", text)
    assert "mean of the last 5" in text


def test_table_2_has_two_parts(tmp_path: Path) -> None:
    table = grid("table2", (500,), toycity=False)
    write_summary(tmp_path, "ga_csa-500-seed0", 60.0)
    write_summary(tmp_path, "ga_csa-500-λ1-seed0", 61.0)
    lines = markdown(table, results(table, tmp_path, range(1)), ()).splitlines()
    assert lines[0] == "The last evaluation, (a) FCSA:"
    b = lines.index("The last evaluation, (b) CSA:")
    assert cells(lines[b + 2]) == ["# labelled", "λ = 1", "λ = 0.1", "λ = 0.01", "λ = 0.001"]
    assert cells(lines[b + 4]) == [
        "500",
        "61.0 (paper 59.76)",
        "not run (paper 59.46)",
        "60.0 (paper 60.16)",
        "not run (paper 59.67)",
    ]


def test_tables_4_and_5_show_every_class_and_the_paper(tmp_path: Path) -> None:
    table = grid("table5", (50,), toycity=False)
    write_summary(tmp_path, "ga-50-seed0", 61.0, road=90.0, wall=3.0)
    lines = markdown(table, results(table, tmp_path, range(1)), SYNTHIA_13).splitlines()
    assert lines[0].count("|") == 13 + 3
    assert [line.split("|")[1].strip() for line in lines[2:7]] == [
        "Wu et al. (paper)",
        "Tsai et al. (paper)",
        "Hong et al. (paper)",
        "ours 50 (GA)",
        "ours 50 (GA) (paper)",
    ]
    assert cells(lines[5])[:3] == ["ours 50 (GA)", "90.0", "–"]
    assert cells(lines[5])[-1] == "61.0"
    assert cells(lines[6])[-2:] == ["59.6", "60.7"]
    for rows, names in ((paper.TABLE_4, CITYSCAPES.names), (paper.TABLE_5, SYNTHIA_13)):
        assert {len(row) for row in rows.values()} == {len(names) + 1}


def test_without_matplotlib_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figure.importlib.util, "find_spec", lambda name: None)
    assert main(["reproduce", "table1", "--toycity"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that end at once; the names that were started, in order."""
    names: list[str] = []
    train = tmp_path / "train.py"
    train.write_text("")

    def run(_: Commands, words: Sequence[str], *__: Any) -> int:
        if words[0] == "eval":
            Path(words[words.index("--json") + 1]).write_text('{"miou": 20.0}')
            return 0
        assert words[0] == "train"
        out = Path(words[words.index("--out") + 1])
        names.append(out.name)
        if "fail" in words:
            return 1
        write_summary(out.parent, out.name, 30.0)
        return 0

    monkeypatch.setattr(Commands, "run", run)
    return names


def test_a_complete_run_is_started_again_only_for_other_words(
    tmp_path: Path, started: list[str]
) -> None:
    runs = [CellRun("a", ("x",)), CellRun("b", ("fail",))]
    assert run_all(runs, tmp_path, 2, Plain()) == [tmp_path / "b.log"]
    assert sorted(started) == ["a", "b"]
    started.clear()
    run_all(runs, tmp_path, 1, Plain())
    assert started == ["b"]
    started.clear()
    (tmp_path / "a" / "summary.json").rename(tmp_path / "kept.json")
    run_all([CellRun("a", ("x",))], tmp_path, 1, Plain())
    assert started == ["a"]


def test_each_of_two_jobs_at_a_time_has_a_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.torch.cuda, "device_count", lambda: 2)
    both = threading.Barrier(2, timeout=20)
    pairs: list[str] = []

    def run(_: Commands, words: Sequence[str], log: object, env: dict[str, str], *__: Any) -> int:
        both.wait()  # two runs are under way
        pairs.append(env["CUDA_VISIBLE_DEVICES"])
        both.wait()
        return 0

    monkeypatch.setattr(Commands, "run", run)
    run_all([CellRun(name, ()) for name in "abcd"], tmp_path, 2, Plain())
    assert sorted(pairs[:2]) == sorted(pairs[2:]) == ["0", "1"]


def test_toycity_shares_the_start_of_a_seed(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastass.pipelines.toycity.generate", lambda *_, **__: None)
    words = ["reproduce", "table1", "--toycity", "--counts", "10", "--seeds", "2"]
    assert main([*words, "--out", str(tmp_path), "--part", "1/2"]) == 0
    assert started[:2] == ["start-seed0", "start-seed1"]
    half = set(started[2:])
    assert main([*words, "--out", str(tmp_path), "--part", "2/2"]) == 0
    assert len(half) == 9
    assert len(set(started)) == len(started) == 2 + 18
    start = (tmp_path / "start-seed1.words").read_text().splitlines()
    assert start[1:6] == ["--method", "source_only", "--no-mix", "--labelled", "0"]
    assert start[-2:] == ["--steps", "600"]
    cell = (tmp_path / "ga_csa-10-seed1.words").read_text().splitlines()
    start_weights = str(tmp_path / "start-seed1" / "last")
    assert cell[-2:] == ["--init", start_weights]
    assert "data/toycity_gta5_shift1/gta5" in cell
    oracle = (tmp_path / "oracle-10-seed1.words").read_text().splitlines()
    assert "--init" not in oracle
    assert oracle[-2:] == ["--start-steps", "600"]
    control = (tmp_path / "control-10-seed1.words").read_text().splitlines()
    last = len(control) - 1 - control[::-1].index("--loss-gadv")
    assert control[last - 3 : last + 2] == ["--method", "ga", "--no-mix", "--loss-gadv", "0"]
    written = {path.name for path in (tmp_path / "table1").iterdir()}
    assert written == {"results.json", "table.md", "plot.svg"}
    started.clear()
    assert main(["reproduce", "table2", *words[2:], "--out", str(tmp_path)]) == 0
    assert len(started) == 2 * (3 + 3)  # λ = 0.04 and 0.01 are Table 1's
    assert "--loss-sadv" in (tmp_path / "ga_csa-10-λ0.1-seed0.words").read_text()
    out = tmp_path / "synthia"
    assert main(["reproduce", "table5", "--toycity", "--counts", "10", "--out", str(out)]) == 0
    synthia = (out / "ga_csa-10-seed0.words").read_text()
    assert "data/toycity_synthia_shift1/synthia" in synthia
    assert "terrain" not in synthia


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table1"], "needs --gta5 DIR and --cityscapes DIR, or --toycity"),
        (["table5"], "needs --synthia DIR and --cityscapes DIR, or --toycity"),
        (["table1", "--toycity", "--counts", "few"], "--counts: expected numbers"),
        (["table3", "--counts", "7"], "none of 7 is a row of table3"),
        (["table1", "--toycity", "--part", "3/2"], "--part: expected I/N"),
        (["table1", "--toycity", "--methods", "gan"], "--methods: gan is not a column of table1"),
        (["table1", "--methods", "joint"], "joint is not a column of table1; it has ga, oracle,"),
        (["table1", "--shift", "0.5"], "--shift is of the built-in data set"),
        (["table1", "--toycity", "--shift", "2"], "--shift: expected number, 0 to 1"),
        (["claims", "--toycity", "--methods", "ga"], "--methods has no effect on claims"),
        (["table1", "--toycity", "--jobs", "0"], "--jobs: expected whole number, at least 1"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_grid_is_an_error() -> None:
    with pytest.raises(UserError, match="none of 51 is a row of table4"):
        grid("table4", (51,), toycity=False)
