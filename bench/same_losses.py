"""The losses of short ToyCity runs from two installations, side by side.

    python -m bench.same_losses OTHER/.venv/bin/python [--steps 40] [--method ga+csa …]

A change that only moves code must not change a single bit. This trains every method with the
Python that runs it and with the other one, in fp32 on the CPU, with the same data and seed, and
compares every loss term of every step. The exit code is 1 where a bit differs.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

from fastass.config.presets import TOYCITY_SGD
from fastass.config.schema import Method
from fastass.config.text import as_flags, flag_of
from fastass.errors import UserError
from fastass.pipelines.toycity import generate

# Every switch that decides about rounding is spelled out: defaults may change between commits.
FLAGS = (
    "--device cpu --kernels native --no-amp --batch 2 --labelled 4 --start-steps 0 --seed 0 "
    "--workers 0 --eval-every 0 --log-every 1 --backward concurrent --plain "
    "--source-size 128x64 --target-size 128x64"
).split()


Losses = list[dict[str, float]]  # of every step: the loss terms by name


def environment_of(python: str) -> dict[str, str]:
    """PYTHONPATH may lead to this checkout, which is not what the other installation runs."""
    environment = dict(os.environ)
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    return environment


@functools.cache
def unmixed_sgd(python: str) -> list[str]:
    """Flags for what the preset was before it trained with --mix and Muon, as far as it has them:
    earlier versions know neither."""
    words = [python, "-m", "fastass", "train", "--help-all"]
    environment = environment_of(python)
    known = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    own = {path: value for path, value in TOYCITY_SGD.items() if flag_of(path) in known.stdout}
    return [*as_flags(own), *(["--no-mix"] if "--no-mix" in known.stdout else [])]


def losses(python: str, method: str, steps: int, city: Path, out: Path) -> Losses:
    """Train in a process of `python` and read the terms of every step from metrics.jsonl.

    Raises UserError with the last line of a run that fails.
    """
    data = ["--data-source", str(city / "gta5"), "--data-target", str(city / "cityscapes")]
    words = [python, "-m", "fastass", "train", "toycity", "--method", method, *FLAGS, *data]
    words += ["--steps", str(steps), "--out", str(out)]
    environment = environment_of(python)
    words += unmixed_sgd(python)
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise UserError(f"{python}: {method}: {(done.stderr.splitlines() or ['failed'])[-1]}")
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["terms"] for record in map(json.loads, lines) if "terms" in record]


def difference(ours: Losses, theirs: Losses) -> str:
    """`equal`, or the first step and term that differ, with both values."""
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
        if a.keys() != b.keys():
            return f"step {step}: terms {', '.join(a)} and {', '.join(b)}"
        for name in a:
            if a[name] != b[name]:  # JSON has every digit of a float
                return f"step {step}: {name} {a[name]!r} and {b[name]!r}"
    return "equal"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.same_losses", description=__doc__)
    parser.add_argument("python", help="the other installation's python")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--method", nargs="+", default=get_args(Method), choices=get_args(Method))
    arguments = parser.parse_args(argv)
    same = True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generate(root, 8, 8, val=2, workers=1, source_size=(128, 64), target_size=(128, 64))
        for method in arguments.method:
            ours, theirs = (
                losses(python, method, arguments.steps, root, root / f"{name} {method}")
                for name, python in (("ours", sys.executable), ("theirs", arguments.python))
            )
            verdict = difference(ours, theirs)
            same = same and verdict == "equal"
            last = ", ".join(
                f"{name} {a:.9g} {theirs[-1][name]:.9g}" for name, a in ours[-1].items()
            )
            print(f"{method}: {len(ours)} steps, {verdict}; last step, ours and theirs: {last}")
    return 0 if same else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"same_losses: {error}")
