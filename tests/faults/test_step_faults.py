"""A step that goes wrong: NaN in any loss term, and memory that does not suffice."""

import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from processes import alone, command

from fastass.cli.main import LESS_MEMORY, build_parser, flags_of, main
from fastass.method.adaptation import Adaptation
from fastass.method.terms import LossTerms
from fastass.training.step import TrainStep

OFTEN = ("--save-every", "2", "--log-every", "4", "--mix")
ALL_TERMS = ("--loss-push", "both")  # without it, L_gadv(I_tu) is never there

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.city(tmp_path_factory.mktemp("data") / "city")


@pytest.fixture(scope="module", params=["ga+csa", "ga+fcsa"])
def calm(
    request: pytest.FixtureRequest, city: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    run = tmp_path_factory.mktemp("runs") / "calm"
    assert main(tiny_runs.train(city, run, *OFTEN, *ALL_TERMS, "--method", request.param)) == 0
    return request.param, run


@pytest.mark.slow
@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("term", LossTerms._fields)
def test_a_non_finite_term_is_named_and_costs_nothing(
    calm: tuple[str, Path],
    city: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    term: str,
    value: str,
) -> None:
    """It enters the graph in the forward of step 5, so weights and all later terms go bad too."""
    forward, method = Adaptation.forward, calm[0]
    adapting = 0

    def poisoned(self: Adaptation, streams: Any, *, adapt: bool = True) -> LossTerms:
        nonlocal adapting
        adapting += adapt
        terms = forward(self, streams, adapt=adapt)
        bad = getattr(terms, term)
        if adapting == 5 and bad is not None:  # of steps 3, 3, 4, 4, 5, 5, …
            return terms._replace(**{term: bad * float(value)})
        return terms

    run = tmp_path / "run"
    words = tiny_runs.train(city, run, *OFTEN, *ALL_TERMS, "--method", method)
    with monkeypatch.context() as patch:
        patch.setattr(Adaptation, "forward", poisoned)
        assert main(words) == 1
    said = capsys.readouterr().err
    kept = (run / "checkpoints" / "step-00000004").resolve()
    wanted = rf"fastass: step 5: the loss term {term} is (nan|inf); the last good checkpoint is "
    assert re.fullmatch(wanted + re.escape(str(kept)), said.strip()), said
    assert main(words) == 0
    tiny_runs.assert_same(run, calm[1])


def test_the_switches_that_lower_memory_exist() -> None:
    known = flags_of(build_parser(), ["train"])
    named = re.findall(r"--[\w-]+", LESS_MEMORY)
    assert len(named) >= 6
    assert set(named) <= set(known)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 805306368 bytes. Error code 12"
        ),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not execute a primitive"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "onednn", "onednn later", "python"],
)
def test_out_of_memory_names_the_switches_that_lower_it(
    city: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def step(self: TrainStep, *arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(TrainStep, "step", step)
    assert main(tiny_runs.train(city, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert said.startswith("fastass: out of memory")
    assert said.endswith(LESS_MEMORY + "\n")
    assert said.count("\n") == 1


def test_another_runtime_error_is_not_out_of_memory(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: TrainStep, *arguments: Any, **options: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(TrainStep, "step", step)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(tiny_runs.train(city, tmp_path / "run"))


def starve(folder: str) -> list[tuple[int, str]]:
    """A run stopped half-way goes on with too little memory, then with enough.

    → exit code and output of each that failed.
    """
    root = Path(folder)
    city, calm, run = tiny_runs.city(root / "city"), root / "calm", root / "run"
    output = root / "output.txt"
    large = ("--data-source-size", "320x160", "--batch", "2")
    assert command(tiny_runs.train(city, calm, *large), output) == 0, output.read_text()
    words, failed = tiny_runs.train(city, run, *large), []
    assert command([*words, "--stop-at", "3"], output) == 0, output.read_text()
    for spare in (10, 25, 40, 55):

        def limit(spare: int = spare) -> None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            size = pages * os.sysconf("SC_PAGESIZE") + spare * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

        if (code := command(words, output, limit)) != 0:
            failed.append((code, output.read_text()))
    assert command(words, output) == 0, output.read_text()
    tiny_runs.assert_same(run, calm)
    return failed


@pytest.mark.slow
def test_too_little_memory(tmp_path: Path) -> None:
    """One line, unless oneDNN (3.12) crashes: it calls code that it had no memory to generate."""
    failed = alone(starve, tmp_path)
    said = [text for code, text in failed if code != -signal.SIGSEGV]
    print(f"too little memory: {len(said)} told, {len(failed) - len(said)} crashed in oneDNN")
    assert said
    for text in said:
        assert "Traceback" not in text, text
        assert "fastass: out of memory" in text, text
        assert LESS_MEMORY in text
