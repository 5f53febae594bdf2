"""Workers run functions of fastass, not the user's script.

Looked for the kind "a script without `if __name__ == '__main__':` runs again in each worker": every
pool is of `worker_pool` (generating ToyCity, packing, verifying); benchmarks start processes from
the command line alone; loaders and class counts use threads.
"""

import subprocess
import sys
from pathlib import Path

from processes import environment

SCRIPT = """
import pathlib
with pathlib.Path("runs.txt").open("a") as file:
    file.write("once more\\n")
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.packed.verify import verify
from fastass.pipelines.toycity import generate
generate("city", 4, 4, 0, 2, workers=2, source_size=(64, 36), target_size=(64, 32))
print(pack(open_dataset("city/gta5"), "packed", (64, 32), workers=2).written)
print(verify("packed", workers=2).records)
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True,
        env=environment(), timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["4", "4"]
    assert (tmp_path / "runs.txt").read_text() == "once more\n"
