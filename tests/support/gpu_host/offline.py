"""A Python as on a GPU host without internet: PyTorch, and what was brought beside it."""

import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

# What first contact needs: few, small wheels beside torch.
PACKAGES = ("torch", "numpy", "triton", "pyyaml", "pillow", "safetensors", "tabulate")
MISSING = ("shtab", "tensorboard", "rich", "jinja2", "pytest", "nvidia-dali-cuda130", "fastass")


def make(folder: Path, packages: tuple[str, ...] = PACKAGES) -> Path:
    """A virtual environment with links to installed `packages` and their requirements → python."""
    made = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(made, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for found in closure(packages):
        tops = {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "bin")}
        for top in tops - {"__pycache__"}:
            target = Path(str(found.locate_file(top)))
            if target.exists() and not (site / top).exists():
                (site / top).symlink_to(target)
    return folder / "bin" / "python"


def closure(packages: tuple[str, ...]) -> list[Distribution]:
    """The distributions of packages and of everything that they require and is installed."""
    seen: dict[str, Distribution] = {}
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        try:
            seen[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in seen[name].requires or ():
            needed = re.match(r"[\w.-]+", line)
            if needed and "extra ==" not in line:
                waiting.append(needed.group())
    return list(seen.values())
