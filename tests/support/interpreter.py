"""Runs Triton kernels in Triton's interpreter, in a process of its own: it is chosen at import."""

import subprocess
import sys

from child import environment


def interpreted(*arguments: str) -> None:
    """`python ARGUMENTS…` with TRITON_INTERPRET=1. Fails with what the process printed."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        env=environment(TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
