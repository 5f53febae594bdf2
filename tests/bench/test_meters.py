"""The meters that all benchmarks share."""

import subprocess
import sys

import pytest
import torch

from fastass.bench import meters

CPU = torch.device("cpu")
MIB = 2**20


def test_peak_of_a_call_is_what_it_adds() -> None:
    """In a process of its own: memory that other tests freed would be used first."""
    code = (
        "import torch\n"
        "from fastass.bench.meters import peak_of\n"
        "cpu = torch.device('cpu')\n"
        "kept = torch.ones(32 << 20, dtype=torch.uint8)\n"
        "print(peak_of(lambda: None, cpu), peak_of(lambda: torch.ones(64 << 20).sum(), cpu))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    nothing, block = map(int, ran.stdout.split())
    assert nothing < 8 * MIB
    assert 4 * 64 * MIB <= block < 4 * 64 * MIB + 16 * MIB


def test_the_peak_starts_anew() -> None:
    torch.ones(64 * MIB, dtype=torch.uint8)
    meters.reset_peak(CPU)
    assert meters.peak_bytes(CPU) <= meters.memory_bytes(CPU) + 8 * MIB


def test_the_peak_rate_is_that_of_the_fastest_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([4.0, 2.0, 8.0, 4.0, 1e9, 1e9])
    monkeypatch.setattr(meters, "timed", lambda call, device: next(seconds))
    assert meters.peak_rate(CPU, torch.float32, rounds=3) == max(
        2 * 1024**3 / 2.0, 2 * 48**2 * 256**2 * 9 / 4.0
    )


def test_a_gpu_is_timed_by_its_own_clock_over_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at: int | None = None

        def record(self) -> None:
            self.at = len(calls)

        def synchronize(self) -> None:
            assert self.at == len(calls)  # waits once, after the last call

        def elapsed_time(self, end: "Event") -> float:  # ms
            assert self.at is not None
            assert end.at is not None
            return 3.0 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: pytest.fail("waits in between"))
    assert meters.per_call(lambda: calls.append(0), torch.device("cuda")) == pytest.approx(3e-3)
    assert len(calls) == meters.CALLS >= 20
    assert meters.COPY_BYTES["cuda"] >= 2 * 10**9
