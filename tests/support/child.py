"""Python processes that tests start: they find the tests' modules."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

HEARS_SIGNALS = ("env", "--default-signal=INT,HUP")
"""Before a command: tests in the background, or of nohup, pass on that these are ignored."""


def environment(**more: str) -> dict[str, str]:
    """This process's, with the checkout and tests/support on the path of modules."""
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def interpreted(*arguments: str) -> None:
    """`python ARGUMENTS…` with TRITON_INTERPRET=1, which Triton reads at import.

    Fails with what the process printed.
    """
    ran = subprocess.run(
        [sys.executable, *arguments],
        env=environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
