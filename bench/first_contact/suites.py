"""Stages `kernels` and `operators`: the GPU tests and the operators' benchmarks, line by line."""

import importlib.util
from pathlib import Path
from typing import Any

from fastass.bench.first_contact.results import Results
from fastass.bench.first_contact.stages import Context

ROOT = Path(__file__).resolve().parents[2]  # of a checkout; a wheel has no tests


class Lines:
    """A pytest plugin: a line per test, and per comparison of an operator's implementations."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.failed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            failed = report.outcome == "failed"
            self.failed += failed
            reason = str(report.longrepr)[-2000:] if failed else ""
            if report.when != "teardown" or failed:
                self.results.write(
                    what="test",
                    test=report.nodeid,
                    outcome=report.outcome,
                    seconds=round(report.duration, 3),
                    **({"reason": reason} if failed else {}),
                )
        if report.when == "teardown":
            for name, values in report.user_properties:
                self.results.write(what=name, **values)


def kernels(context: Context) -> None:
    """Values and gradients against fp64, the same bits, unknown labels; not compilation."""
    _run(context, ROOT / "tests/kernels/test_on_gpu.py", ["-k", "not compiles"])


def operators(context: Context) -> None:
    """Medians, limits and peak memory of every implementation of every operator."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        context.results.write(what="skipped", reason="pytest-benchmark is not installed")
        return
    few = ["-k", "confusion", "--rounds", "1"] if context.tiny else ["--rounds", "5"]
    _run(context, ROOT / "bench/ops", [*few, "--no-compiled", "--device", context.device])


def _run(context: Context, path: Path, flags: list[str]) -> None:
    if importlib.util.find_spec("pytest") is None:
        context.results.write(what="skipped", reason="pytest is not installed")
        return
    if not path.exists():
        reason = f"{path} is not there: run from a checkout"
        context.results.write(what="skipped", reason=reason)
        return
    import pytest

    lines = Lines(context.results)
    pytest.main([str(path), "-q", "-p", "no:cacheprovider", *flags], plugins=[lines])
    if lines.failed:
        raise SystemExit(f"{lines.failed} tests failed")
