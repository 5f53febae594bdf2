"""A user's first steps with an installed wheel: an operator, a short run, and a prediction of it.

`.ci/run` starts it in an environment that has the wheel, from an empty folder. The command line is
the environment's own `fastass`.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastass
from fastass.kernels import upsample_cross_entropy

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "steps": 3,
    "start_steps": 2,
    "source_size": "128x72",
    "target_size": "128x64",
    "toycity.source": 6,
    "toycity.target": 8,
    "toycity.val": 2,
    "labelled": 2,
}


def main() -> None:
    assert not Path(fastass.__file__).is_relative_to(ROOT), "this is the checkout, not the wheel"
    scores = torch.randn(1, 19, 8, 16, requires_grad=True)
    labels = torch.randint(0, 19, (1, 64, 128), dtype=torch.uint8)
    upsample_cross_entropy(scores, labels, align_corners=True).backward()
    assert scores.grad is not None

    command = Path(sys.executable).with_name("fastass")
    shown = subprocess.run([command, "--help"], check=True, capture_output=True, text=True)
    assert "fastass train" in shown.stdout

    fastass.train("toycity", out="run", plain=True, **SMALL)
    image = np.zeros((72, 128, 3), np.uint8)
    found = fastass.load("run", device="cpu").predict(image)
    assert isinstance(found, np.ndarray)
    assert found.shape == image.shape[:2]
    print(f"the wheel works: {Path(fastass.__file__).parent}")


if __name__ == "__main__":
    main()
