"""The peak is that of this process alone, whatever process started it."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from processes import environment

from fastass.runtime.peak_memory import peak_memory

MIB = 2**20
CPU = torch.device("cpu")
ASK = (
    "import torch; from fastass.runtime.peak_memory import peak_memory; "
    "print(peak_memory(torch.device('cpu')))"
)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no peak of their own")
def test_the_peak_is_not_that_of_the_parent() -> None:
    before = peak_memory(CPU)
    large = np.ones(1 << 30, np.uint8)
    assert peak_memory(CPU) > large.nbytes
    assert peak_memory(CPU) > before
    child = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, env=environment(), check=True
    )
    assert 64 * MIB < int(child.stdout) < large.nbytes
