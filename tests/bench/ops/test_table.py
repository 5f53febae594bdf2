"""bench.ops.table: rows and Markdown from a pytest-benchmark result."""

import json
from pathlib import Path

import pytest

from bench.ops import table

INFO = {
    "op": "class_mean",
    "passes": "forward",
    "dtype": "float32",
    "device": "a processor",
    "threads": 2,
    "isa": "avx2, torch AVX2",
    "torch": "2.13.0",
    "allocator": "tuned",
    "copy_bandwidth": 20e9,
    "limit_seconds": 0.004,
    "sides": {
        "reference": {"median": 0.4, "peak": 400 << 20},
        "index_add": {"median": 0.02, "peak": 100 << 20},
        "one-hot matmul": {"median": 0.04, "peak": 100 << 20},
        "fastass": {"median": 0.005, "peak": 50 << 20},
    },
}


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"benchmarks": [{"extra_info": INFO}]}))
    return path


def test_rows_compare_with_reference_best_alternative_and_limit(result: Path) -> None:
    reference, index_add, _, ours = table.rows(json.loads(result.read_text()))
    assert reference["vs_reference"] == 1
    assert index_add["vs_best_alternative"] is None
    assert ours["implementation"] == "fastass"
    assert ours["median_ms"] == pytest.approx(5)
    assert ours["vs_reference"] == pytest.approx(80)
    assert ours["vs_best_alternative"] == pytest.approx(4)  # index_add is the fastest of the rest
    assert ours["limit_percent"] == pytest.approx(80)
    assert ours["peak_vs_reference"] == pytest.approx(1 / 8)


def test_markdown_and_json(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main([str(result)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("a processor, torch 2.13.0, float32, 2 threads, avx2, torch AVX2,")
    ours = next(line for line in printed.splitlines() if "| fastass " in line)
    assert ours.replace(" ", "") == "|class_mean|forward|fastass|5|80|4|80|50|0.125|"
    assert table.main([str(result), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[3]["peak_mib"] == 50


def test_unreadable_result_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main([str(tmp_path / "none.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
