"""`make fake-cuda`: the checks of this folder with CUDA wheels of torch, without a GPU.

    python tests/fake_cuda/with_cuda_wheels.py [--torch 2.11.0 newest] [--python PYTHON] [CHECKS …]

Each version of torch gets an environment of its own in build/fake_cuda (5 GB each; delete the
folder to free it), made by the given Python. Forward, backward, optimizers, every launcher, Dynamo
and inductor's code generation run there on the fake device. The last line names what failed.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "fake_cuda"
CHECKS = ("on_faults", "on_launchers", "on_step", "on_compile")
# Beside torch, which brings Triton: what fastass imports, and pytest.
NEEDED = ("numpy", "pillow", "pyyaml", "safetensors", "rich", "jinja2", "tabulate", "pytest")
# Inductor of torch 2.11 imports what torch calls deprecated; other warnings are errors.
TORCHS_OWN = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"
OLDEST = "2.11.0"  # the one that pyproject.toml promises


def environment_of(version: str, python: str) -> Path:
    """The Python of the environment for one version of torch, which is made if it is not there."""
    folder = FOLDER / f"torch-{version}"
    inside = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing torch {version} into {folder} (5 GB)", flush=True)
        wanted = "torch" if version == "newest" else f"torch=={version}"
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--upgrade", wanted, *NEEDED], check=True)
        (folder / "ready").touch()
    return inside


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checks", nargs="*", default=CHECKS, metavar="CHECKS")
    parser.add_argument("--torch", nargs="+", default=(OLDEST, "newest"))
    parser.add_argument("--python", default=sys.executable, help="makes the environments")
    arguments = parser.parse_args(argv)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support", HERE)))
    failed = []
    for version in arguments.torch:
        python = environment_of(version, arguments.python)
        about = "import sys, torch, triton; print(sys.version.split()[0], "
        about += "torch.__version__, triton.__version__)"
        said = subprocess.run([python, "-c", about], capture_output=True, text=True, check=True)
        print(f"Python, torch, Triton: {said.stdout.strip()}", flush=True)
        for checks in arguments.checks:
            command = [str(python), "-m", "pytest", "-q", "-p", "fake_cuda_plugin"]
            command += ["-p", "no:cacheprovider", "-W", TORCHS_OWN, str(HERE / f"{checks}.py")]
            ran = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths})
            failed += [f"{checks} with torch {version}"] if ran.returncode else []
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
