"""What a GPU does, measured in one command on a host that may be offline.

    python -m bench.first_contact --out DIR [--budget 540] [--only STAGE …]

Run it from a checkout. It needs torch, Triton and the small packages of `NEEDED`; what else a stage
needs and does not find is its reason for being skipped. Each stage is a process with a time limit
of its own. Every number is a line of DIR/results.jsonl, written as soon as it is measured; a
stage's output is DIR/STAGE.txt. A stage that does not fit the rest of the budget is skipped and
named. `--tiny` with `--device cpu` runs the list itself on a machine without a GPU.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fastass.bench.first_contact.results import Results
from fastass.bench.first_contact.stages import STAGES, Stage

# Module → the package that has it.
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "tabulate": "tabulate",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages → 0; 1: one failed or ran out of its time; 2: a package is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.first_contact", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--budget", type=float, default=540, help="seconds for all stages (540)")
    parser.add_argument("--only", nargs="+", choices=[*STAGES], metavar="STAGE")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (cuda)")
    parser.add_argument("--tiny", action="store_true", help="small networks and images")
    arguments = parser.parse_args(argv)
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        names = " ".join(missing)
        print(f"first contact: not installed: {names}; pip install {names}", file=sys.stderr)
        return 2
    out: Path = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out, "first contact")
    deadline = time.monotonic() + arguments.budget
    results.write(budget=arguments.budget, device=arguments.device, tiny=arguments.tiny)
    bad = False
    for name, stage in STAGES.items():
        if arguments.only and name not in arguments.only:
            continue
        left = deadline - time.monotonic()
        if left < stage.least:
            reason = f"needs {stage.least} s, and {max(left, 0):.0f} s of the budget are left"
            results.write(stage=name, skipped=reason)
            print(f"{name}: skipped: {reason}", flush=True)
            continue
        start = time.monotonic()
        flags = ["--device", arguments.device, *["--tiny"] * arguments.tiny]
        ended = run(name, min(stage.most, left), out, flags)
        seconds = round(time.monotonic() - start, 1)
        results.write(stage=name, ended=ended, seconds=seconds)
        print(f"{name}: {ended}, {seconds:.0f} s", flush=True)
        bad |= ended != "done"
    print(f"results: {results.path}")
    return int(bad)


def run(name: str, limit: float, out: Path, flags: Sequence[str]) -> str:
    """A stage in a process of its own, with all that it starts → how it ended."""
    caches = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    environment = {**os.environ, **{key: str(out / "cache" / c) for key, c in caches.items()}}
    command = [sys.executable, "-m", Stage.__module__, name, "--out", str(out), *flags]
    with open(out / f"{name}.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(limit)
            return "done" if code == 0 else f"failed with exit code {code}, see {name}.txt"
        except subprocess.TimeoutExpired:
            return f"stopped after its {limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # compilers and loaders that it left behind
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
