"""The native library: found, forced to an instruction set, forked, packed, in bounds."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from fastass.kernels import native_library
from fastass.runtime.malloc import Allocator

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_best_instruction_set_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTASS_CPU_ISA", raising=False)
    assert (
        native_library.isa()
        == native_library.INSTRUCTION_SETS[native_library.library().fastass_best_isa()]
    )


def test_forced_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTASS_CPU_ISA", "base")
    assert native_library.isa() == "base"
    monkeypatch.setenv("FASTASS_CPU_ISA", "sse9")
    with pytest.raises(RuntimeError, match="FASTASS_CPU_ISA: got 'sse9', expected one of"):
        native_library.isa()


def test_instruction_set_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        @staticmethod
        def fastass_best_isa() -> int:
            return 0

    monkeypatch.setattr(native_library, "library", Old)
    monkeypatch.setenv("FASTASS_CPU_ISA", "avx2")
    with pytest.raises(RuntimeError, match="this processor has base at best"):
        native_library.isa()


def test_every_signature_exists_for_every_instruction_set() -> None:
    built = ("base", "avx2", "avx512") if native_library.library().fastass_best_isa() else ("base",)
    for name in native_library.SIGNATURES:
        for instruction_set in built:
            assert hasattr(native_library.library(), f"fastass_{name}_{instruction_set}")


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_library_that_is_not_there_or_broken(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / native_library.LIBRARY
    if content is not None:
        path.write_bytes(content)
    code = "from fastass.kernels import native_library; print(native_library.unavailable())"
    said = run_python(code, FASTASS_NATIVE_LIBRARY=str(path)).stdout
    assert ("is missing from" if content is None else "cannot be loaded") in said
    assert "pip install -e ." in said
    assert said.count("\n") == 1


def test_library_of_other_sources() -> None:
    code = "from fastass.kernels import native_library as n; n.ABI += 1; print(n.unavailable())"
    assert "was built from other sources" in run_python(code).stdout


FORKED = """
import os, torch
from fastass import kernels
scores, labels = torch.randn(1, 5, 9, 9), torch.randint(0, 5, (1, 99, 99), dtype=torch.uint8)
expected = kernels.upsample_confusion(scores, labels, align_corners=True)
torch.randn(500, 500) @ torch.randn(500, 500)  # the parent has used OpenMP
(torch.randn(1 << 20) + 1).exp()
child = os.fork()
if child == 0:
    same = torch.equal(kernels.upsample_confusion(scores, labels, align_corners=True), expected)
    given = scores.requires_grad_()
    kernels.upsample_cross_entropy(given, labels, align_corners=True).backward()
    os._exit(0 if same and given.grad.isfinite().all() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

class Counts(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index):
        return kernels.upsample_confusion(scores.detach(), labels, align_corners=True)

for batch in torch.utils.data.DataLoader(Counts(), batch_size=1, num_workers=2):
    assert torch.equal(batch[0], expected)
print("done")
"""


def test_after_fork_and_in_data_loader_workers() -> None:
    ran = run_python(FORKED)
    assert ran.stdout == "done\n", ran.stderr


def test_threads_of_python_run_it_side_by_side() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from fastass.kernels import upsample_confusion

    scores = torch.randn(1, 5, 17, 17)
    labels = torch.randint(0, 5, (1, 99, 99), dtype=torch.uint8)
    expected = upsample_confusion(scores, labels, align_corners=True)
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(upsample_confusion, scores, labels, align_corners=True) for _ in range(64)
        ]
        assert all(torch.equal(call.result(), expected) for call in calls)


FAULTS = """
import resource, sys, torch
from fastass.kernels import native_library
if sys.argv[-1] == "tuned" and not native_library.tune_allocator(reuse=True):
    print("no glibc"); raise SystemExit
for step in range(24):
    if step == 20:  # the first steps touch the memory that is then kept
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_tuned_allocator_keeps_large_blocks() -> None:
    """Four fresh tensors of 64 MiB: 16384 page faults each (32 of transparent huge pages)."""
    tuned = run_python(FAULTS.replace("sys.argv[-1]", "'tuned'")).stdout
    if tuned == "no glibc\n":
        pytest.skip("malloc is not glibc's")
    assert int(tuned) < 20 < int(run_python(FAULTS).stdout)


def test_the_allocator_through_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped blocks until everything that stays is there, then reuse; the same in the next."""
    calls: list[bool] = []
    monkeypatch.setattr(native_library, "tune_allocator", lambda *, reuse: calls.append(reuse))
    allocator, off = Allocator(tuned=True), Allocator(tuned=False)
    for _ in range(2):
        allocator.begin()
        assert calls == [False]
        for _ in range(3):
            allocator.stepped()
        assert calls == [False, True]
        calls.clear()
    off.begin()
    off.stepped()
    assert not calls


FUZZ = """
import random, sys, torch
from fastass import kernels
from fastass.kernels import native_library
from fastass.kernels.convolution import batch_norm
from fastass.kernels.convolution.winograd import conv4x4_stride2 as conv4x4

def tensor(shape, dtype):
    # Strides of every kind: dense in both orders, with gaps, reversed dimensions.
    made = torch.randn(shape) * random.choice([0.1, 3, 300])
    kind = random.randrange(4)
    if kind == 0:
        made = made.contiguous(memory_format=torch.channels_last)
    elif kind == 1:
        made = torch.randn([2 * n for n in shape])[::2, ::2, ::2, ::2]
    elif kind == 2:
        made = made.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    return made.to(dtype)

def fuzz(seconds):
    import time
    end, rounds = time.time() + seconds, 0
    while time.time() < end:
        rounds += 1
        random.seed(rounds); torch.manual_seed(rounds)
        best = native_library.library().fastass_best_isa()
        os_isa = random.choice(native_library.INSTRUCTION_SETS[: best + 1])
        import os; os.environ["FASTASS_CPU_ISA"] = os_isa
        torch.set_num_threads(random.choice([1, 2, 5]))
        B, C = random.choice([1, 2, 3]), random.choice([1, 2, 3, 7, 8, 15, 16, 17, 19, 33, 64])
        h, w = random.choice([1, 2, 3, 5, 9, 18]), random.choice([1, 2, 4, 8, 9, 17, 33, 40])
        H, W = random.choice([1, 3, 9, 40, 65]), random.choice([1, 2, 7, 16, 33, 130, 257])
        dtype = random.choice([torch.float32, torch.bfloat16, torch.float16])
        scores = tensor((B, C, h, w), dtype)
        top = random.choice([C, 256])
        labels = torch.randint(0, top, (B, H, W), dtype=torch.uint8)
        labels[torch.rand(B, H, W) < random.choice([0, 0.2, 1])] = 255
        if random.random() < 0.1:
            hit = torch.rand_like(scores.float()) < 0.1
            scores[hit] = float(random.choice(["nan", "inf", "-inf"]))
        align = random.random() < 0.5
        for operator in (kernels.upsample_confusion, kernels.upsample_cross_entropy):
            try:
                operator(scores, labels, align_corners=align)
            except ValueError as error:
                assert top == 256 and "labels" in str(error), error
        labels[labels >= C] = 255
        given = scores.detach().requires_grad_()
        loss, p = kernels.upsample_cross_entropy(
            given, labels, align_corners=align, return_probabilities=True)
        (loss + (p * torch.randn_like(p)).sum()).backward()
        soft = kernels.upsample_softmax(given, (H, W), align_corners=align)
        soft.backward(tensor((B, C, H, W), dtype))
        features = tensor((B, random.choice([1, 3, 16, 40]), h, w), dtype).requires_grad_()
        means, _ = kernels.class_mean(features, labels, C)
        means.sum().backward()
        x = tensor((B, random.choice([32, 64]), h, w), torch.float32).requires_grad_()
        weight = tensor((random.choice([32, 96]), x.shape[1], 3, 3), torch.float32)
        y = kernels.conv3x3(
            x, weight.requires_grad_(), torch.ones(len(weight)), dilation=random.choice([1, 2, 7]))
        y.backward(tensor(y.shape, torch.float32))
        C_in, C_out = random.choice([8, 9, 19, 32]), random.choice([16, 48])
        weight, bias = torch.randn(C_out, C_in, 4, 4), torch.randn(C_out)
        x = torch.randn(B, C_in, H + 1, W + 1).contiguous(memory_format=torch.channels_last)
        slopes = [random.choice([None, 0.2]) for _ in range(2)]
        g = torch.randn_like(conv4x4.conv4x4_stride2(x, weight, bias, slopes[0]))
        conv4x4.conv4x4_stride2_gradients(
            g, x, weight, negative_slope=slopes[1], to_x=True, to_weight=True)
        norm = torch.nn.BatchNorm2d(features.shape[1])
        maps = [features.detach().float().contiguous(memory_format=torch.channels_last)
                for _ in range(2)]
        if batch_norm._fits(maps[0], maps[1], norm):
            for residual in (None, maps[1].requires_grad_()):
                batch_norm.batch_norm(maps[0].requires_grad_(), norm, residual=residual,
                                      relu=random.random() < 0.5).sum().backward()
        N, M = features.shape[1], random.choice([1, 5, 16])
        sizes = ((M, N), (M,), (2 * C, M), (2 * C,))
        weights = [torch.randn(size).to(dtype).requires_grad_() for size in sizes]
        for domain, adversarial in ((0, True), (1, False)):
            losses = kernels.pixel_discriminator_loss(
                features, labels, *weights, domain=domain, adversarial=adversarial)
            sum(losses).backward()
    print("rounds", rounds)

if MODE == "stray":  # must be caught: labels shorter than the sizes say
    scores, counts = torch.randn(1, 3, 4, 4), torch.empty(3, 3, dtype=torch.int64)
    labels = torch.zeros(1, 9, 8, dtype=torch.uint8)
    native_library.call("upsample_confusion", scores, 0, *scores.stride(), labels, counts,
                1, 3, 4, 4, 9, 9, 1, 255, 1)
    print("not caught")
else:
    fuzz(SECONDS)
"""


@pytest.mark.slow
def test_no_routine_reads_or_writes_out_of_bounds(tmp_path: Path) -> None:
    """Random shapes, strides, dtypes and instruction sets under the address sanitizer."""
    for step in (
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DFASTASS_SANITIZE=ON"],
        ["cmake", "--build", str(tmp_path), "--parallel", "2"],
    ):
        subprocess.run(step, check=True, capture_output=True)
    # The sanitizer intercepts C++ exceptions, so libstdc++ must be there when it starts.
    preloaded = [
        subprocess.run(
            ["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = {
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "FASTASS_NATIVE_LIBRARY": str(tmp_path / native_library.LIBRARY),
    }
    stray = run_python('MODE = "stray"\n' + FUZZ, **environment)
    assert "heap-buffer-overflow" in stray.stderr, stray.stdout + stray.stderr
    ran = run_python('MODE, SECONDS = "fuzz", 150\n' + FUZZ, **environment)
    assert ran.stdout.startswith("rounds"), ran.stderr[-4000:]


@pytest.mark.slow
def test_wheel_holds_the_library_and_no_sources(tmp_path: Path) -> None:
    build = ["pip", "wheel", str(ROOT), "--no-deps", "-w", str(tmp_path)]
    built = subprocess.run(
        [sys.executable, "-m", *build, f"-Cbuild-dir={tmp_path}/build"],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert f"fastass/kernels/{native_library.LIBRARY}" in names
    assert {"fastass/pipelines/datasets/classes.py", "fastass/kernels/class_mean/gpu.py"} <= set(
        names
    )
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"fastass"}
    assert not [name for name in names if name.endswith((".cpp", ".h"))]
