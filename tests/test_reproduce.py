"""Tables as grids of runs: cells, statistics and the paper's figures beside them."""

import json
from pathlib import Path

import pytest

from fastass import paper
from fastass.cli import main
from fastass.presets import PRESETS
from fastass.reproduce import markdown, methods_grid, results


def write(out: Path, name: str, miou: float) -> None:
    (out / name).mkdir(parents=True)
    summary = {"reported_miou": miou, "best_miou": miou + 1}
    (out / name / "summary.json").write_text(json.dumps(summary))


def test_every_cell_of_a_table_is_a_preset() -> None:
    for table, source in (("table1", "gta5"), ("table3", "synthia")):
        cells = methods_grid(table, source, None, toycity=False).cells
        names = [
            f"{source}_to_cityscapes_{c.method.replace('ga+', '')}_{c.labelled}" for c in cells
        ]
        assert {PRESETS[name].miou for name in names} == {c.paper for c in cells}
        assert len(names) == {"gta5": 25, "synthia": 19}[source]


def test_table_with_mean_deviation_and_paper(tmp_path: Path) -> None:
    grid = methods_grid("table1", "gta5", (50,), toycity=False)
    for seed, miou in enumerate((50.0, 52.0)):
        write(tmp_path, f"ga_csa-50-seed{seed}", miou)
    write(tmp_path, "ga-50-seed0", 49.0)
    records = results(grid, tmp_path, range(2))
    csa = next(r for r in records if r["method"] == "ga+csa")
    assert csa["miou"] == [50.0, 52.0]
    assert csa["best_miou"] == [51.0, 53.0]
    assert csa["mean"] == 51.0
    assert csa["std"] == pytest.approx(2**0.5)
    assert csa["paper"] == paper.TABLE_1[50][3]
    assert markdown(grid, records).splitlines() == [
        "| labelled | oracle | ga | ga+fcsa | ga+csa |",
        "|---|---|---|---|---|",
        "| 50 | not run (paper 39.5) | 49.0 (paper 50.0) | not run (paper 50.2) "
        "| 51.0 ± 1.4 (paper 50.1) |",
    ]


def test_toycity_has_its_own_counts_and_no_figure_of_the_paper() -> None:
    grid = methods_grid("table1", "gta5", (20,), toycity=True)
    assert [(c.method, c.labelled) for c in grid.cells] == [
        ("source_only", 0), ("oracle", 20), ("ga", 20), ("ga+fcsa", 20), ("ga+csa", 20)
    ]  # fmt: skip
    assert all(cell.paper is None for cell in grid.cells)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table1"], "needs --gta5 DIR and --cityscapes DIR, or --toycity"),
        (["table1", "--toycity", "--counts", "few"], "--counts: expected numbers"),
        (["table3", "--counts", "7"], "none of 7 is a row of table3"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err
