"""`--batch auto`: the estimate against what a step really takes, the choice, and whole runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from fastass.checkpoint.own_files import CONFIG
from fastass.cli.main import main
from fastass.config.configure import configure
from fastass.config.schema import AUTO, Config
from fastass.config.text import from_yaml
from fastass.errors import UserError
from fastass.method.adaptation import method_spec
from fastass.models.config import ModelConfig
from fastass.runtime.device import describe_runtime
from fastass.runtime.process_group import World
from fastass.training.memory import auto_batch
from fastass.training.memory.auto_batch import GIB, RESERVE, Need, measure, with_batch
from fastass.training.memory.live_bytes import LiveBytes
from fastass.training.step import TrainStep

MIB = 2**20


def test_live_bytes_are_those_of_storages_at_once() -> None:
    before = torch.zeros(MIB)
    with LiveBytes() as live:
        a = torch.zeros(MIB // 4)  # 1 MiB
        view = a.view(2, -1)
        a.add_(1)
        assert live.alive == MIB
        b = a + before[: MIB // 4]
        assert live.alive == 2 * MIB
        del a
        assert live.alive == 2 * MIB, "the view keeps it"
        del view
        assert live.alive == MIB
        c = torch.zeros(3 * MIB // 4)
        del b, c
    assert (live.alive, live.peak) == (0, 4 * MIB)


REAL = """
import sys, torch
from fastass.config.configure import configure
from fastass.method.adaptation import method_spec
from fastass.runtime.device import setup_runtime
from fastass.training.memory.random_batch import random_batch
from fastass.training.step import TrainStep, build

def kib(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(l for l in lines if l.startswith(name)).split()[1])

torch.set_num_threads(1)
images, flags = int(sys.argv[1]), dict(w.split("=") for w in sys.argv[2:])
c = configure("toycity", {"batch": images, "device": "cpu", **flags}).resolved()
spec = method_spec(c.method, 4)
before = kib("VmRSS")
step = TrainStep(build(c, spec), c, setup_runtime(c.runtime))
batch = random_batch(c, spec, torch.device("cpu"), channels_last=True)
for _ in range(2):
    step.step([batch], adapt=True)
print(kib("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "flags",
    [
        {"backward": "fused", "source_size": "512x256", "target_size": "512x256"},
        {"backward": "streamed", "source_size": "256x144", "target_size": "256x128"},
    ],
)
def test_the_estimate_is_what_a_step_takes(flags: dict[str, str]) -> None:
    """The resident memory of a process, less what it has before; without the loader's images."""
    images = 8
    words = [f"{name}={value}" for name, value in flags.items()]
    ran = subprocess.run(
        [sys.executable, "-c", REAL, str(images), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    real = 1024 * int(ran.stdout)
    c = configure("toycity", {"device": "cpu", **flags}).resolved()
    spec = method_spec(c.method, 4)
    need = measure(c, spec, describe_runtime(c.runtime))
    loaded = auto_batch.PREFETCHED * 12 * auto_batch._pixels(c, spec)
    estimate = need.fixed + images * (need.per_image - loaded)
    # Operators' code and workspaces are some 60 MiB more; the reserve is for them.
    assert 0.7 * (real - 64 * MIB) < estimate < 1.3 * real


def test_probing_leaves_the_random_numbers_alone() -> None:
    c = configure("toycity", {"device": "cpu", "source_size": "64x32", "target_size": "64x32"})
    torch.manual_seed(3)
    before = torch.get_rng_state()
    measure(c.resolved(), method_spec(c.method, 4), describe_runtime(c.runtime))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_largest_batch_leaves_a_reserve() -> None:
    need = Need(fixed=2 * GIB, per_image=GIB)
    available = 12 * GIB
    assert need.largest(available) == int((1 - RESERVE) * 12 - 2) == 7
    assert need.largest(GIB) == 0


class Ranks(World):
    """Two ranks, of which the other found less memory."""

    def gather(self, value: Any) -> list[Any]:
        batch, need, available = value
        return [value, (batch - 3, need, available - 3 * GIB)]


class Data:
    """In the place of TrainingData: a source of so many images."""

    def __init__(self, images: int) -> None:
        self.source, self.target = range(images), range(5)


def chosen(
    monkeypatch: pytest.MonkeyPatch, config: Config, world: World, images: int = 1000
) -> tuple[int, str]:
    """The batch and the line, where 12 GiB are available."""
    monkeypatch.setattr(auto_batch, "measure", lambda *_: Need(2 * GIB, GIB))
    monkeypatch.setattr(auto_batch, "_available", lambda device: 12.0 * GIB)
    monkeypatch.setattr(auto_batch, "replace", _replace)
    lines: list[str] = []
    spec = method_spec(config.method, 4)
    runtime = describe_runtime(config.runtime)
    data: Any = Data(images)
    c, data = with_batch(config, spec, data, runtime, world, lines.append)
    assert data.batch == c.batch
    return c.batch, "".join(lines)


def _replace(value: Any, **new: Any) -> Any:
    if isinstance(value, Data):
        value.__dict__ |= new
        return value
    return replace(value, **new)


TOYCITY = configure("toycity", {"batch": "auto", "device": "cpu"})


def test_the_line_says_what_was_chosen_and_what_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, line = chosen(monkeypatch, TOYCITY, World())
    assert batch == 7
    assert line == (
        "--batch auto: 7 images per stream (estimated: 2 GiB and 1 GiB per image of 12 GiB "
        "available); the global batch is 7, and the learning rates are those of a global batch of "
        "4: see --scale-lr; norm batch: its statistics, and so the result, depend on the batch"
    )
    frozen = replace(TOYCITY, model=ModelConfig(backbone="tiny", norm="frozen"))
    scaled = replace(frozen, optim=replace(frozen.optim, scale_lr="sqrt"))
    _, line = chosen(monkeypatch, scaled, World())
    assert line.endswith("of 12 GiB available); the global batch is 7")


def test_the_rank_with_the_least_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TOYCITY, distributed=replace(TOYCITY.distributed, world=2))
    batch, line = chosen(monkeypatch, config, Ranks(0, 2, grouped=True))
    assert batch == 4
    assert "of 9 GiB available on rank 1, which has the least); the global batch is 8" in line


def test_no_step_sees_an_image_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TOYCITY, accumulate=2)
    batch, line = chosen(monkeypatch, config, World(), images=12)
    assert batch == 6
    assert "no more, for a step to see no image twice); the global batch is 12" in line
    assert chosen(monkeypatch, config, World(), images=1)[0] == 2  # five of the target


def test_not_even_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_batch, "measure", lambda *_: Need(2 * GIB, GIB))
    monkeypatch.setattr(auto_batch, "_available", lambda device: 3.0 * GIB)
    data: Any = Data(9)
    arguments = (method_spec("ga", 0), data, describe_runtime(TOYCITY.runtime), World())
    with pytest.raises(UserError, match=r"one image per stream takes 3 GiB, and of 3 GiB availa"):
        with_batch(TOYCITY, *arguments, lambda line: None)


def test_a_usual_number_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_batch, "measure", lambda *_: pytest.fail("measured"))
    c, data = configure("toycity", {"device": "cpu"}), Data(9)
    spec, runtime = method_spec(c.method, 4), describe_runtime(c.runtime)
    found = with_batch(c, spec, data, runtime, World(), pytest.fail)  # type: ignore[arg-type]
    assert found == (c, data)


def test_a_number_that_cannot_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system would end the process, after minutes and without a word."""
    words = tiny_runs.train(tiny_runs.city(tmp_path / "city"), tmp_path / "run")
    assert main([*words, "--device", "cpu", "--batch", "10000000"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastass: --batch 10000000: estimated to take ")
    assert error.endswith(" fit, see --batch auto\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_number_is_refused_on_every_rank() -> None:
    """Also where another rank has enough memory: none waits for the others."""

    class Other(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, "--batch 6: too much on the other rank"]

    c, data = configure("toycity", {"device": "cpu"}), Data(9)
    spec, runtime = method_spec(c.method, 4), describe_runtime(c.runtime)
    with pytest.raises(UserError, match="too much on the other rank"):
        with_batch(c, spec, data, runtime, Other(), pytest.fail)  # type: ignore[arg-type]


@pytest.mark.parametrize("fits", [0, 1, 5])
def test_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    """On a CPU, with the errors of CUDA; a frozen norm would go on with micro-batches."""
    step = TrainStep.step

    def limited(self: TrainStep, batches: Any, *, adapt: bool) -> Any:
        if len(batches[0].source.images) > fits:
            raise torch.OutOfMemoryError
        return step(self, batches, adapt=adapt)

    monkeypatch.setattr(TrainStep, "step", limited)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * GIB))
    c = configure("toycity", {"device": "cpu", "source_size": "64x32", "target_size": "64x32"})
    spec, runtime = method_spec(c.method, 4), describe_runtime(c.runtime)
    if fits == 0:
        with pytest.raises(UserError, match="one image per stream does not fit into the GPU's"):
            measure(c.resolved(), spec, runtime)
    else:
        need = measure(c.resolved(), spec, runtime)
        assert (need.largest(80 * GIB) < 2) == (fits == 1)


def test_a_run_keeps_the_number_when_it_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    city, run = tiny_runs.city(tmp_path / "city"), tmp_path / "run"
    words = tiny_runs.train(city, run, "--batch", "auto", "--accumulate", "1")
    assert main([*words, "--stop-at", "3"]) == 0
    said = capsys.readouterr().out
    assert "--batch auto: 3 images per stream (estimated: " in said
    assert "norm batch: its statistics, and so the result, depend on the batch" in said
    assert from_yaml(run / CONFIG).batch == 3
    monkeypatch.setattr(auto_batch, "measure", lambda *_: pytest.fail("measured again"))
    assert main(words) == 0
    assert from_yaml(run / CONFIG).batch == 3
    assert json.loads((run / "summary.json").read_text())["steps"] == 6


def test_the_word_in_flags_files_and_benchmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure("toycity", {"batch": "auto"}).batch == AUTO
    file = tmp_path / "auto.yaml"
    file.write_text("batch: auto\n")
    assert from_yaml(file).batch == AUTO
    for wrong in ("0", "automatic"):
        with pytest.raises(UserError, match="batch"):
            configure("toycity", {"batch": wrong})
    with pytest.raises(UserError, match="accumulate"):
        configure("toycity", {"accumulate": "auto"})
    assert main(["bench", "step", "toycity", "--batch", "auto"]) == 2
    assert "--batch auto: a benchmark needs a number" in capsys.readouterr().err
