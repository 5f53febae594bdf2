"""Both kinds of statistics, differences to `joint`, held-out source and provenance in tables."""

import json
from pathlib import Path

import pytest
from run_summaries import write_summary

from fastass.reproduce.comparison import differences, kinds_of, with_statistics
from fastass.reproduce.grids import Grid, grid
from fastass.reproduce.output_files import write, write_claims
from fastass.reproduce.table import markdown, results

JOINT, MIX = ((30.0, 36.0), (31.0, 38.0), (33.0, 37.0)), ((29.0, 39.0), (31.0, 42.0), (32.0, 41.0))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, ((a, b), (c, d)) in enumerate(zip(JOINT, MIX, strict=True)):
        write_summary(tmp_path, f"joint-5-seed{seed}", a, b, road=90.0)
        write_summary(tmp_path, f"joint_mix-5-seed{seed}", c, d, road=91.0)
        both = {"mixed": {"miou": 50.0}, "domain": {"miou": 44.0}}
        source = {"miou": 50.0, "by_statistics": both}
        (tmp_path / f"joint-5-seed{seed}.source.json").write_text(json.dumps(source))
    write_summary(tmp_path, "ga-5-seed0", 32.0, 35.0)
    return tmp_path


def table() -> Grid:
    return grid("table1", (5,), True, ("joint", "ga", "joint+mix"))


def test_every_table_stands_for_both_statistics(runs: Path) -> None:
    text = markdown(table(), results(table(), runs, range(3)), ())
    for title in ("The last evaluation", "The best evaluation", "The mean of the last 5"):
        assert text.count(f"\n{title}") + text.startswith(title) == 2, title
    assert "| 5 " in text
    assert "31.3 ± 1.5" in text  # joint, mixed
    assert "37.0 ± 1.0" in text  # joint, domain
    assert "The last evaluation, domain statistics (the target's):" in text


def test_differences_are_paired_and_have_their_standard_error(runs: Path) -> None:
    records = results(table(), runs, range(3))
    assert kinds_of(records) == ("mixed", "domain")
    text = differences(records)
    mixed, domain, better = text.split("Minus Joint, seed by seed, ")[1:]
    assert "mixed statistics" in mixed
    assert "-0.7 ± 0.3 (3)" in mixed  # of -1, 0 and -1
    assert "+3.7 ± 0.3 (3)" in domain  # of 3, 4 and 4
    assert "each cell with its better statistics" in better
    assert "+3.7 ± 0.3 (3)" in better
    assert "+2.0 (1)" in mixed  # one seed: no error
    assert "-1.0 (1)" in better  # GA, and joint, with the target's
    without = [r for r in records if r["method"] != "joint"]
    assert differences(without) == ""


def test_seeds_that_one_lacks_do_not_count(runs: Path) -> None:
    write_summary(runs, "ga-5-seed7", 99.0, 99.0)
    assert "(1)" in differences(results(table(), runs, range(8)))
    assert "+6" not in differences(results(table(), runs, range(8)))


def test_source_seeds_and_versions(runs: Path) -> None:
    text = markdown(table(), results(table(), runs, range(3)), ())
    assert "source, mixed" in text
    assert "| Joint " in text.split("Held-out")[1]
    assert "44.0" in text.split("Held-out")[1]
    assert "Seeds 0, 1, 2: Joint 5, Joint+mix 5." in text
    assert "Seeds 0: GA 5." in text
    assert "Versions: torch 2." in text
    assert "Device: cpu." in text


def test_older_runs_have_mixed_statistics(runs: Path) -> None:
    write_summary(runs, "joint-5-seed0", 30.0)  # without the target's
    records = results(table(), runs, range(1))
    joint = next(r for r in records if r["method"] == "joint")
    assert joint["by_statistics"] == {}
    mixed, domain = (with_statistics([joint], kind)[0] for kind in ("mixed", "domain"))
    assert mixed["last"]["mean"] == 30.0
    assert domain["seeds"] == domain["last"]["values"] == []
    text = markdown(table(), records, ())
    assert "not run" in text.split("domain statistics")[1]


def test_the_files_have_both(runs: Path) -> None:
    write(table(), runs, range(3))
    found = json.loads((runs / "table1" / "results.json").read_text())
    joint = next(r for r in found if r["method"] == "joint")
    assert joint["by_statistics"]["domain"]["last"]["values"] == [36.0, 38.0, 37.0]
    assert joint["source"]["domain"]["mean"] == 44.0
    tables = [grid(name, (5,), toycity=True) for name in ("table1", "table2")]
    write_claims(tables[0], tables[1], runs, range(3))
    text = (runs / "claims" / "claims.md").read_text()
    assert text.count("| (a) |") == 2
    claims = json.loads((runs / "claims" / "claims.json").read_text())
    assert [c["norm_statistics"] for c in claims] == ["mixed"] * 5 + ["domain"] * 5
