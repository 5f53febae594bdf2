"""`fastass bench train`: both paths read, train and are measured, on a tiny ToyCity."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastass.cli.main import main

TINY = """
    --device cpu --toycity-source 6 --toycity-target 6 --toycity-val 2 --method source_only
    --labelled 2 --batch 2 --source-size 64x48 --target-size 64x48 --workers 1
    --rounds 1 --warmup-rounds 0 --turn 2 --unmeasured 1
""".split()


def test_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where ToyCity is generated
    assert main(["bench", "train", *TINY, "--json", "train.json"]) == 0
    result = json.loads(Path("train.json").read_text())
    assert "loader pillow" in result["heading"]
    reference, ours = result["train"]
    assert [reference["name"], ours["name"]] == ["AdaptSegNet baseline", "fastass"]
    assert reference["speedup"] == reference["memory_ratio"] == 1
    assert ours["speedup"] == pytest.approx(reference["seconds"] / ours["seconds"])
    for row in (reference, ours):
        assert row["seconds"] == pytest.approx(
            row["wait"] + row["forward_backward"] + row["optimizer"]
        )
        assert row["wait"] > 0
        assert row["images_per_second"] == pytest.approx(2 / row["seconds"])
    assert reference["loaders_mib"] > 10  # a process for each stream
    assert reference["peak_mib"] > reference["loaders_mib"]
    assert ours["loaders_mib"] == 0  # threads
    assert "| fastass " in capsys.readouterr().out


def test_memory_of_child_processes() -> None:
    code = (
        "import multiprocessing, time\n"
        "from fastass.bench.step.memory import children_mib\n"
        "def hold(pipe):\n"
        "    block = b'x' * (64 << 20)\n"
        "    pipe.send(None)\n"
        "    pipe.recv()\n"
        "context = multiprocessing.get_context('fork')\n"
        "here, there = context.Pipe()\n"
        "before = children_mib()\n"
        "process = context.Process(target=hold, args=(there,))\n"
        "process.start()\n"
        "here.recv()\n"
        "print(before, children_mib())\n"
        "here.send(None)\n"
        "process.join()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, during = map(float, ran.stdout.split())
    assert before == 0
    assert 64 < during < 400
