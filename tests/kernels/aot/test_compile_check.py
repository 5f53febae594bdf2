"""The ahead-of-time gate: Triton launches compile for GPUs that are not there, without spills.

`make test` compiles one launch of every kernel for sm_90, `make slow` all for every architecture.
"""

import json
import os
import subprocess
import sys

import pytest

from fastass.kernels.aot import compile_check
from fastass.kernels.aot.launch_spec import Bounds, Launch

triton = pytest.importorskip("triton")


@pytest.mark.parametrize(
    ("archs", "one_each"),
    [([90], True), pytest.param([80, 90, 100], False, marks=pytest.mark.slow)],
)
def test_launches_pass(archs: list[int], one_each: bool) -> None:
    """In a process of its own: an interpreting session must not change the kernels."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-m", "fastass.kernels.aot.compile_check", "--json", "--arch"]
        + [str(arch) for arch in archs]
        + ["--one-each"] * one_each,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode in (0, 1), ran.stderr
    reports = [compile_check.Report(**row) for row in json.loads(ran.stdout)]
    assert {report.sm for report in reports} == set(archs)
    assert len(reports) == len(archs) * len(compile_check.launches(one_each=one_each))
    failed = [report for report in reports if report.verdict != "ok"]
    assert not failed, "\n" + compile_check.table(failed)


def _verdict(code: str, **asked: object) -> str:
    launch = Launch("x", None, {}, {}, **asked)  # type: ignore[arg-type]
    return compile_check.judge("x", 90, launch, f"REG:168 {code}", shared=0).verdict


def test_verdicts() -> None:
    code = "LDG.E.128 R4, [R2.64] ; HMMA.16816.F32 R4 ; STL [R1], R2 ; LDL R3, [R1] ; LDG.E R1"
    assert _verdict(code, dot=True, wide=True) == "spills"
    clean = "LDGSTS.E.BYPASS.128 [R1] ; HGMMA.64x64x16.F32.BF16 R24 ; LDGDEPBAR"
    assert _verdict(clean, dot=True, wide=True) == "ok"
    assert _verdict("FFMA R1 ; LDG.E.64 R1", dot=True, wide=True) == (
        "dot without matrix instructions, no 16-byte loads"
    )
    assert _verdict("FFMA R1") == "ok"
    # 168 registers: 12 warps per multiprocessor.
    assert _verdict("FFMA R1", num_warps=4, bounds=Bounds(ctas=3)) == "ok"
    assert _verdict("FFMA R1", num_warps=4, bounds=Bounds(ctas=4)) == (
        "fewer than 4 CTAs per multiprocessor"
    )
    loop = "/*0000*/ FFMA R1 ; /*0010*/ @P0 BRA 0x0 ;"
    bounds = Bounds(instructions=2, pixels=32, trips=(32,))
    assert _verdict(loop, num_warps=1, bounds=bounds) == "ok"
    assert _verdict(loop, num_warps=2, bounds=bounds) == "more than 2 instructions per pixel"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_compiler_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(compile_check, "compile_one", lambda *task: os._exit(9))
    reports = compile_check.run(["class_mean.gpu"], [90])
    assert len(reports) == len(compile_check.launches(["class_mean.gpu"]))
    assert {r.verdict for r in reports} == {"does not compile: the compiler died (exit code 9)"}


def test_interpreting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        compile_check.run(["class_mean.gpu"])
