"""The training step and the kernels on a CUDA device that is not there.

The checks are in on_*.py, each run in a process of its own: the device is installed before torch
is imported and changes the whole process.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from child import environment

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def library() -> None:
    pytest.importorskip("triton")
    built = subprocess.run(
        [sys.executable, "-c", "import fake_device; fake_device.build()"],
        env=environment(PYTHONPATH=str(HERE)),
        capture_output=True,
        text=True,
    )
    if "fake_device.Unavailable" in built.stderr:
        pytest.skip(f"no fake CUDA device: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("checks", ["on_faults", "on_launchers", "on_step"])
def test_on_a_fake_cuda_device(checks: str) -> None:
    more = environment()
    more["PYTHONPATH"] = f"{HERE}:{more['PYTHONPATH']}"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "fake_cuda_plugin"]
    ran = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(HERE / f"{checks}.py")],
        env=more,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout
