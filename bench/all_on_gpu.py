"""`make gpu`: runs everything that needs a CUDA GPU.

Tests, operators and their table, step, switches, training, scale, in this order:

    python -m bench.all_on_gpu --out runs/gpu [--tiny] [--device cpu] [--only PART …]

Each part is a separate command whose output goes to OUT/<part>.txt (and .json). If a part fails,
its exit code is reported and the next part runs. `--tiny` uses small sizes, to try the list itself;
with `--device cpu`, pytest skips what needs a GPU.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from fastass.errors import UserError
from fastass.runtime.device import choose_device

PRESET = "gta5_to_cityscapes_csa_500"
FULL = ["--source-size", "1280x720", "--target-size", "1024x512"]
SMALL = ["--source-size", "64x48", "--target-size", "64x48", "--backbone", "tiny"]


def parts(out: Path, device: str, tiny: bool) -> dict[str, list[str]]:
    """Name → command, the cheapest and most informative first."""
    python = [sys.executable, "-m"]
    fastass = [*python, "fastass"]
    step = [*fastass, "bench", "step", PRESET, "--device", device, "--norm", "frozen"]
    step += [*(SMALL if tiny else FULL), *(["--rounds", "1"] if tiny else [])]
    operators = [*python, "pytest", "bench/", "--device", device]
    operators += ["-k", "confusion", "--rounds", "1", "--no-compiled"] if tiny else []
    commands = {
        "doctor": [*fastass, "doctor"],
        "tests": [*python, "pytest", "-q", "-m", "gpu", *(["tests/training/test_step.py"] * tiny)],
        "operators": [*operators, f"--benchmark-json={out}/operators.json"],
        "table": [*python, "bench.ops.table", f"{out}/operators.json"],
    }
    amp = [] if device == "cpu" else ["--amp"]
    for batch in (1,) if tiny else (1, 2, 4, 8):
        for backward in ("fused",) if tiny else ("fused", "streamed"):
            name = f"step_batch{batch}_{backward}"
            flags = ["--batch", str(batch), "--backward", backward, *amp]
            commands[name] = [*step, *flags, "--json", f"{out}/{name}.json"]
    switches = [*step, *amp, "--batch", "1", "--backward", "streamed", "--switches"]
    switches += [] if tiny else ["--compiled"]
    commands["switches"] = [*switches, "--json", f"{out}/switches.json"]
    train = [*fastass, "bench", "train", "toycity", "--device", device]
    train += ["--rounds", "1", "--turn", "2", "--unmeasured", "1"] if tiny else [*amp]
    toy = ["--toycity-source", "8", "--toycity-target", "24", "--toycity-val", "2"] if tiny else []
    toy += ["--toycity-directory", f"{out}/toycity"]
    commands["train"] = [*train, *toy, "--json", f"{out}/train.json"]
    scale = [*fastass, "bench", "scale", PRESET, "--device", device, "--norm", "frozen", *amp]
    scale += [*SMALL, "--rounds", "1"] if tiny else [*FULL, "--batch", "4"]
    commands["scale"] = [*scale, "--ranks", "", "--json", f"{out}/scale.json"]
    return commands


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use small sizes, to try the list")
    parser.add_argument("--only", nargs="*", help="run only these parts")
    args = parser.parse_args()
    try:
        choose_device(args.device)
    except UserError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in parts(args.out.absolute(), args.device, args.tiny).items():
        if args.only and name not in args.only:
            continue
        start = time.perf_counter()
        with open(args.out / f"{name}.txt", "w", encoding="utf-8") as log:
            log.write(" ".join(command) + "\n\n")
            log.flush()
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        print(f"{name}: exit code {code}, {time.perf_counter() - start:.0f} s", flush=True)
        if code not in (0, 5):  # 5: pytest found nothing to run
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else f"all parts ran; see {args.out}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
