"""First contact on a host that has PyTorch and little else, at small sizes on the CPU."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from child import ROOT
from gpu_host.offline import MISSING, PACKAGES, closure, make

from fastass.bench.first_contact.engine import configured
from fastass.bench.first_contact.graphs import REPLAYS, largest_difference, losses
from fastass.bench.first_contact.profile import STEPS, busy, longest
from fastass.bench.first_contact.results import Results
from fastass.bench.first_contact.stages import STAGES, Context
from fastass.training.graphed_step import EAGER_STEPS


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("host") / "venv")


def contact(host: Path, out: Path, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [str(host), "-m", "bench.first_contact", "--out", str(out), "--device", "cpu"]
    ran = subprocess.run([*command, "--tiny", *flags], cwd=ROOT, env=environment, text=True)
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return ran.returncode, [json.loads(line) for line in lines]


def test_numbers_and_reasons_on_an_offline_host(host: Path, tmp_path: Path) -> None:
    assert not set(MISSING) & {found.name for found in closure(PACKAGES)}
    only = ("machine", "kernels", "optimizers", "dali", "cuda-graph", "counters")
    code, lines = contact(host, tmp_path, "--only", *only)
    logs = "\n".join(path.read_text() for path in tmp_path.glob("*.txt"))
    assert code == 0, logs
    assert [x["stage"] for x in lines if x.get("ended") == "done"] == list(only)
    assert any(x.get("gb_per_second", 0) > 0 for x in lines)
    assert {x["backend"] for x in lines if x.get("what") == "optimizers"} == {
        *("torch", "foreach", "apex")
    }
    reasons = {x["stage"] for x in lines if x.get("what") == "skipped"}
    assert reasons == {"kernels", "dali", "cuda-graph", "counters"}


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    bare = make(tmp_path / "venv", ("torch", "numpy"))
    command = [str(bare), "-m", "bench.first_contact", "--out", str(tmp_path / "out")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 2
    names = "pyyaml pillow safetensors tabulate"
    assert ran.stderr == f"first contact: not installed: {names}; pip install {names}\n"


def test_a_stage_that_does_not_fit_is_named(host: Path, tmp_path: Path) -> None:
    code, lines = contact(host, tmp_path, "--budget", "5")
    assert code == 0
    assert [x["stage"] for x in lines if "skipped" in x] == [*STAGES]
    assert all("of the budget are left" in x["skipped"] for x in lines[1:])


@pytest.mark.slow
def test_the_whole_list(host: Path, tmp_path: Path) -> None:
    code, lines = contact(host, tmp_path, "--budget", "900")
    ended = {x["stage"]: x["ended"] for x in lines if "ended" in x}
    assert ended.keys() == STAGES.keys()
    if code:  # compilation takes as long as the machine lets it
        late = {stage for stage, how in ended.items() if how != "done"}
        assert late <= {"compile", "reduce-overhead"}, ended
    steps = [x for x in lines if x.get("what") == "step"]
    assert {"engine", "reference", "cudnn"} <= {x["stage"] for x in steps}
    assert all(x["ms"] >= x["launch_ms"] > 0 for x in steps)


def test_busy_share_and_longest() -> None:
    assert busy([]) == 0.0
    assert busy([(0, 4), (1, 2), (6, 8)]) == pytest.approx(6 / 8)
    calls, ms = 2 / STEPS, 3e3 / 1e3 / STEPS
    assert longest([("a", 1e3), ("b", 1.0), ("a", 2e3)])[0] == ("a", calls, ms)


def test_the_losses_that_a_graph_is_compared_by(tmp_path: Path) -> None:
    config = configured(Context(Results(tmp_path, "cuda-graph"), "cpu", True), "frozen", 1)
    found = losses(config)
    assert found.shape == (EAGER_STEPS + REPLAYS, 8)
    assert largest_difference(found, losses(config)) == 0
    assert largest_difference(found, 1.5 * found) == pytest.approx(0.5)
