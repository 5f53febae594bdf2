"""The direction of imports: downwards only, no circles, and nothing heavy that is not asked for."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LINKED = ("kernels", "pipelines", "bench")  # folders that fastass/ links to

# A module may import modules of its own rank or lower, never of a higher one.
RANKS = [
    {"pipelines", "kernels"},
    {"errors"},
    {"models"},
    {"config"},
    {"runtime"},
    {"method", "self_training", "checkpoint"},
    {"inference", "tracking"},
    {"evaluation"},
    {"training", "report", "reproduce"},
    {"api"},
    {"bench"},
    {"cli", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def modules() -> dict[str, Path]:
    """Dotted name under `fastass` → file."""
    found = {}
    for folder in ("fastass", *LINKED):
        prefix = "" if folder == "fastass" else f"{folder}."
        for path in (ROOT / folder).rglob("*.py"):
            relative = path.relative_to(ROOT / folder)
            if relative.parts[0] in LINKED and not prefix:
                continue  # the links, followed by no rglob of this Python but of later ones
            if path.name.startswith(("test_", "conftest")):
                continue  # of bench/, not in the wheel
            found[prefix + ".".join(relative.with_suffix("").parts)] = path
    return found


def is_module(name: str) -> bool:
    """Whether `fastass.NAME` is a file or a folder."""
    path = ROOT / "fastass" / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path, top_level: bool = False) -> set[str]:
    """Names under `fastass` that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            if module == "fastass" or module.startswith("fastass."):
                package = module.removeprefix("fastass").removeprefix(".")
                for alias in node.names:
                    inner = f"{package}.{alias.name}".removeprefix(".")
                    found.add(inner if is_module(inner) else package)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found |= {n.removeprefix("fastass.") for n in names if n.startswith("fastass.")}
    return found


def test_no_module_imports_a_higher_one() -> None:
    for name, path in modules().items():
        own = name.split(".")[0]
        if own == "__init__":
            continue
        assert own in RANK, f"{name}: give it a rank in this test"
        for imported in imports(path):
            top = imported.split(".")[0]
            assert RANK[top] <= RANK[own], f"{name} imports {imported}"


def test_kernels_and_pipelines_import_nothing_of_the_engine() -> None:
    for name, path in modules().items():
        own = name.split(".")[0]
        if own in ("kernels", "pipelines"):
            assert {i.split(".")[0] for i in imports(path)} <= {own}, name


def test_no_circles() -> None:
    every = modules()
    packages = {name.removesuffix(".__init__"): name for name in every if "__init__" in name}
    graph = {
        name: {packages.get(i, i) for i in imports(path, top_level=True)} & every.keys()
        for name, path in every.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_utils() -> None:
    assert not [name for name in modules() if name.split(".")[-1] in ("utils", "helpers", "misc")]


ON_A_CPU = """
import sys
import torch
import fastass.training.loop
from fastass.method.adaptation import method_spec
from fastass.training.memory.random_batch import random_batch
from fastass.config.schema import Config, DataConfig, RuntimeConfig
from fastass.training.step import TrainStep, build
from fastass.runtime.device import setup_runtime
from fastass.models.config import ModelConfig

config = Config(
    model=ModelConfig(backbone="resnet50", norm="frozen"),
    data=DataConfig(source_size=(64, 32), target_size=(64, 32)),
    backward="streamed",
    runtime=RuntimeConfig(device="cpu"),
).resolved()
runtime, spec = setup_runtime(config.runtime), method_spec(config.method, labelled=1)
engine = TrainStep(build(config, spec), config, runtime)
batch = random_batch(config, spec, runtime.device, channels_last=True)
assert engine.step([batch], adapt=True).seg_source.isfinite()
engine.load_state(engine.state())
print(*sorted({"triton", "torch._dynamo", "nvidia", "onnx", "av"} & set(sys.modules)))
"""


def test_a_step_on_a_cpu_imports_neither_triton_nor_a_compiler() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ON_A_CPU],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []


def test_rooms_stay_small() -> None:
    """What a reader can take in: a root of few files, folders of 16, files of 400 lines."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sources = [Path(f) for f in listed.stdout.split() if f.endswith((".py", ".cpp", ".h"))]
    folders = Counter(path.parent for path in sources)
    assert folders[Path("fastass")] <= 6
    assert {str(folder): n for folder, n in folders.items() if n > 16} == {}
    long = {
        str(path): lines
        for path in sources
        if (ROOT / path).exists()
        and (lines := len((ROOT / path).read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}
