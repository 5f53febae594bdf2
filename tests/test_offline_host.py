"""A GPU host without internet has PyTorch, and not what only some commands of fastass need."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
import torch
from child import ROOT
from gpu_host.offline import closure, make

COMMAND_LINE = ("pyyaml", "pillow", "rich", "jinja2", "tabulate", "safetensors")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the packages of the command line, but for shtab and fastass's own metadata."""
    packages = ("torch", "numpy", "triton", *COMMAND_LINE)
    assert not {"shtab", "fastass"} & {found.name for found in closure(packages)}
    return make(tmp_path_factory.mktemp("host") / "venv", packages)


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_the_command_line_runs(host: Path) -> None:
    ran = run(host, "-m", "fastass", "--version")
    assert (ran.returncode, ran.stdout.strip()) == (0, "fastass from a checkout, not installed")
    ran = run(host, "-m", "fastass", "completion", "bash")
    assert ran.returncode == 2
    assert ran.stderr == "fastass: completion: shtab is not installed; pip install shtab\n"


def test_the_engine_needs_few_packages(host: Path) -> None:
    code = "import sys\nimport fastass.bench.step.worker\nprint(*sorted(sys.modules))"
    ran = run(host, "-c", code)
    assert ran.returncode == 0, ran.stderr
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not {"shtab", "tensorboard", "rich", "jinja2", "pytest"} & loaded


def test_benchmarks_on_a_gpu_need_no_native_library(monkeypatch: pytest.MonkeyPatch) -> None:
    place = ROOT / "bench" / "ops" / "conftest.py"
    spec = importlib.util.spec_from_file_location("ops_conftest", place)
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)

    def fail(reuse: bool) -> None:
        raise RuntimeError("no native library")

    monkeypatch.setattr(conftest.native_library, "tune_allocator", fail)
    assert conftest.set_allocator("tuned", torch.device("cuda")) == "default"
    with pytest.raises(RuntimeError, match="no native library"):
        conftest.set_allocator("tuned", torch.device("cpu"))
