"""Ahead-of-time gate: compiles every Triton launch for GPUs that are not there, and reads the code.

    python -m fastass.kernels.aot.compile_check [--arch 80 90 100] [--jobs 2] [--one-each] [--json]
        [MODULE ...]

Each module with Triton kernels lists its launches as `AOT` (see `launch_spec.Launch`). Every launch
is compiled for every architecture, each in a process of its own (a compiler crash must not take the
gate along), with a stub driver that stands in for the GPU. Reported from the machine code:
registers per thread, spills, shared memory, CTAs per multiprocessor, matrix instructions, 16-byte
global loads, and warp instructions per pixel for the launches that declare their pixels. Exit
status 1 when a launch does not compile, spills registers, has a dot without matrix instructions,
has no 16-byte loads where they are asked for, or exceeds its bounds.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from fastass.kernels.aot import machine_code
from fastass.kernels.aot.launch_spec import Launch

MODULES = (
    "class_mean.gpu",
    "convolution.epilogue_gpu",
    "convolution.fused.fold_gpu",
    "convolution.fused.pointwise_gpu",
    "convolution.norm.gpu",
    "convolution.norm.pointwise_gpu",
    "convolution.taps.gpu",
    "pixel_discriminator_loss.gpu",
    "upsample.softmax_gpu",
    "upsample.confusion_gpu",
    "upsample.pseudo_labels_gpu",
)
ARCHITECTURES = (80, 90, 100)
COLUMNS = (
    "kernel", "sm", "registers", "spills", "shared", "ctas", "matrix", "loads16", "per_pixel",
    "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """One launch on one architecture.

    Registers are per thread, shared memory is in bytes per CTA, ctas are what a multiprocessor
    holds at once; spills, matrix and loads16 are instructions in the code; per_pixel is the number
    of warp instructions per pixel, 0 where the launch declares no pixels.
    """

    kernel: str
    sm: int
    registers: int = 0
    spills: int = 0
    shared: int = 0
    ctas: int = 0
    matrix: int = 0
    loads16: int = 0
    per_pixel: float = 0.0
    verdict: str = "ok"


class _StubDriver:
    """As much of a driver as compiling takes. The device id is the architecture, so that Triton's
    per-device caches of compiled kernels stay apart."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)


def launches(modules: Sequence[str] = MODULES, one_each: bool = False) -> list[tuple[str, int]]:
    """Every launch as (module, position in its AOT); with one_each the first of every kernel."""
    found: dict[object, tuple[str, int]] = {}
    for module in modules:
        for position, launch in enumerate(importlib.import_module(f"fastass.kernels.{module}").AOT):
            key = id(launch.kernel) if one_each else (module, position)
            found.setdefault(key, (module, position))
    return list(found.values())


def compile_one(module: str, position: int, arch: int) -> Report:
    """Compiles one launch in this process and reads its machine code."""
    import triton

    launch = importlib.import_module(f"fastass.kernels.{module}").AOT[position]
    name = f"{module}: {launch.name}"
    triton.runtime.driver.set_active(_StubDriver(arch))
    try:
        compiled = launch.kernel.warmup(
            grid=(1,),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
            **{
                key: triton.MockTensor(value) if _is_dtype(value) else value
                for key, value in launch.arguments.items()
            },
            **launch.constants,
        )
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        return Report(name, arch, verdict=f"does not compile: {type(error).__name__}: {first_line}")
    return judge(name, arch, launch, _disassemble(compiled.asm["cubin"]), compiled.metadata.shared)


def judge(name: str, arch: int, launch: Launch, code: str, shared: int) -> Report:
    """What the machine code of a launch costs, and whether that is too much."""
    bounds = launch.bounds
    registers = machine_code.registers(code)
    spills, matrix, loads16 = machine_code.counts(code)
    ctas = machine_code.ctas(arch, registers, shared, launch.num_warps)
    per_pixel = 0.0
    if bounds.pixels:
        executed = machine_code.executed(code, bounds.trips) * launch.num_warps
        per_pixel = round(executed / bounds.pixels, 2)
    problems = []
    if spills:
        problems.append("spills")
    if launch.dot and not matrix:
        problems.append("dot without matrix instructions")
    if launch.wide and not loads16:
        problems.append("no 16-byte loads")
    if ctas < bounds.ctas:
        problems.append(f"fewer than {bounds.ctas} CTAs per multiprocessor")
    if bounds.instructions and per_pixel > bounds.instructions:
        problems.append(f"more than {bounds.instructions} instructions per pixel")
    words = ", ".join(problems) or "ok"
    return Report(name, arch, registers, spills, shared, ctas, matrix, loads16, per_pixel, words)


def run(
    modules: Sequence[str] = MODULES,
    archs: Sequence[int] = ARCHITECTURES,
    jobs: int = 2,
    one_each: bool = False,
) -> list[Report]:
    """Compiles the launches of `modules` for `archs`, `jobs` at a time, a process each."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("the gate compiles: unset TRITON_INTERPRET")
    tasks = [(*launch, arch) for launch in launches(modules, one_each) for arch in archs]
    # Each compile is a fork of this process, which has imported torch and Triton and, which takes
    # half a second, hashed Triton's own files; nothing here has started a thread.
    importlib.import_module("triton.runtime.cache").triton_key()
    context = multiprocessing.get_context("fork")
    reports: list[Report | None] = [None] * len(tasks)
    running: dict[Connection, tuple[int, ForkProcess]] = {}
    waiting = list(enumerate(tasks))[::-1]
    while waiting or running:
        while waiting and len(running) < jobs:
            number, task = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(sender, *task))
            process.start()
            sender.close()
            running[receiver] = number, process
        ready = wait(list(running))
        for receiver in [receiver for receiver in running if receiver in ready]:
            number, process = running.pop(receiver)
            try:
                reports[number] = receiver.recv()
            except EOFError:
                process.join()
                module, position, arch = tasks[number]
                reason = f"does not compile: the compiler died (exit code {process.exitcode})"
                name = importlib.import_module(f"fastass.kernels.{module}").AOT[position].name
                reports[number] = Report(f"{module}: {name}", arch, verdict=reason)
            process.join()
            receiver.close()
    return [report for report in reports if report is not None]


def _child(sender: Connection, module: str, position: int, arch: int) -> None:
    # The compiler prints whole modules when it fails; the report has one line.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sender.send(compile_one(module, position, arch))


def table(reports: Sequence[Report]) -> str:
    """The reports as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(str(asdict(r)[c]) for c in COLUMNS) + " |" for r in reports]
    return "\n".join(lines)


def _is_dtype(value: object) -> bool:
    import torch

    return isinstance(value, torch.dtype)


def _disassemble(cubin: bytes) -> str:
    import triton

    # Triton's wheel brings the tool, as it brings ptxas.
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-sass", "-res-usage", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastass.kernels.aot.compile_check", description=__doc__
    )
    parser.add_argument("modules", nargs="*", default=MODULES, metavar="MODULE")
    parser.add_argument("--arch", nargs="+", type=int, default=ARCHITECTURES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--one-each", action="store_true", help="one launch per kernel")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args(argv)
    reports = run(arguments.modules, arguments.arch, arguments.jobs, arguments.one_each)
    print(json.dumps([asdict(r) for r in reports]) if arguments.json else table(reports))
    return int(any(r.verdict != "ok" for r in reports))


if __name__ == "__main__":
    sys.exit(main())
