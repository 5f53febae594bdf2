"""The tutorial runs from its first to its last cell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT

SMALL = {
    "SOURCE, TARGET, VAL, LABELLED = 120, 80, 12, 6": "SOURCE, TARGET, VAL, LABELLED = 4, 4, 2, 2",
    "start_steps=150": "start_steps=2",
    "    steps=150": "    steps=2",
    "(192, 108)": "(96, 64)",
    "(192, 96)": "(96, 64)",
}


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    code = (ROOT / "docs" / "tutorial.py").read_text(encoding="utf-8")
    for large, small in SMALL.items():
        assert code.count(large) == 1, large
        code = code.replace(large, small)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 source images, 4 target images, ('road', 'building'" in done.stdout
    assert "same prediction: True" in done.stdout
    folder = tmp_path / "tutorial"
    for name in ("report.html", "prediction.png", "model/model.safetensors", "run/summary.json"):
        assert (folder / name).stat().st_size > 0
    assert len((folder / "labelled.txt").read_text().split()) == 2
