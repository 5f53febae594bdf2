"""`fastass bench step`: candidates in processes, their table, what they can't do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastass.bench import all_on_gpu
from fastass.bench.step import compare
from fastass.bench.step.candidate import Candidate, StepTime, engine
from fastass.bench.step.memory import SavedTensors
from fastass.bench.step.worker import CandidateConfig
from fastass.cli.main import build_parser, main
from fastass.config.schema import Config, DataConfig, DiscriminatorConfig, RuntimeConfig
from fastass.errors import UserError
from fastass.models.config import ModelConfig

TINY = ["--backbone", "tiny", "--source-size", "64x48", "--target-size", "64x48", "--device", "cpu"]


def config() -> Config:
    return Config(
        runtime=RuntimeConfig(device="cpu"),
        model=ModelConfig(backbone="tiny", norm="frozen"),
        data=DataConfig(source_size=(64, 48), target_size=(64, 48)),
        discriminator=DiscriminatorConfig(width=4, hidden=16),
    ).resolved()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "step.json"
    words = ["bench", "step", *TINY, "--rounds", "1", "--warmup-rounds", "0"]
    assert main([*words, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    reference, ours = result["step"]
    assert reference["speedup"] == 1
    assert ours["name"] == "fastass"
    for row in result["step"]:
        assert row["seconds"] == pytest.approx(
            row["wait"] + row["forward_backward"] + row["optimizer"]
        )
        assert 0 < row["peak_share"] < 1
        assert row["peak_mib"] > row["tensors_mib"]["parameters"] > 0
        assert row["tensors_mib"]["activations"] > 0
    printed = capsys.readouterr().out
    assert printed.count("| AdaptSegNet baseline, norm batch ") == 2


def test_a_candidate_that_can_not_be_built_says_why() -> None:
    wrong = replace(config(), optim=replace(config().optim, optimizer_backend="apex"))
    if torch.cuda.is_available():
        pytest.skip("apex may be here")
    with pytest.raises(Exception, match="optimizer_backend: "):
        Candidate(engine("apex", wrong))


def test_every_switch_differs_from_the_engine_and_has_a_name() -> None:
    ours = engine("", config())
    names = set()
    for candidate in (*compare.switches(config()), *compare.compiled(config())):
        assert replace(candidate, name="") != ours, candidate.name
        names.add(candidate.name)
    assert len(names) >= 8
    configs = compare.candidates(config())
    assert [r.config.model.norm for r in configs] == ["batch", "frozen", "frozen"]


def test_on_a_gpu_each_has_the_memory_alone_and_one_that_dies_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[str] = []
    lines: list[str] = []

    class Alone:
        def __init__(self, candidate: CandidateConfig) -> None:
            assert not alive, "two candidates at once"
            assert len(lines) == started.index(candidate.name), "the last one's line is not out"
            self.config, self.name = candidate, candidate.name
            self.times: list[StepTime] = []
            self.facts = {"precision": torch.bfloat16}

        def __enter__(self) -> "Alone":
            alive.append(self.name)
            return self

        def __exit__(self, *error: object) -> None:
            alive.remove(self.name)

        def turn(self, steps: int, unmeasured: int) -> None:
            if self.name == "dies":
                raise UserError("bench: dies: out of memory: CUDA")
            self.times.append(StepTime(0.0, 1.0, 1.0))

        def ask(self, what: str) -> object:
            return {"memory": {"peak": 10.0, "loaders": 0.0}, "tensors": {}, "flops": 4e12}[what]

    monkeypatch.setattr(compare, "Candidate", Alone)
    monkeypatch.setattr(compare, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(compare, "peak_rate", lambda device, precision: 4e12)
    started = ["dies", "first", "second"]
    configs = [engine(name, config(), count_flops=name == "second") for name in started]
    rows = compare.measure(configs, 3, 1, lambda what: None, line=lines.append)
    assert [row.name for row in rows] == ["first", "second"]
    assert [row.peak_share for row in rows] == [0.5, 0.5]
    assert lines[0] == "failed: bench: dies: out of memory: CUDA"
    assert lines[1] == "first: 2000.0 ms per step, 1.5 images/s, peak 10 MiB"
    lines.clear()
    with pytest.raises(UserError, match="dies"):
        compare.measure(configs[:1], 1, 0, lambda what: None, line=lines.append)


def test_images_of_a_step() -> None:
    assert compare.images_per_step(replace(config(), batch=2)) == 6
    assert compare.images_per_step(replace(config(), method="source_only", batch=2)) == 2


def test_saved_tensors_counts_each_storage_once_and_forgets_it() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    with SavedTensors([weight]) as saved:
        x = torch.ones(100, 100)
        y = (x * weight).sum() + (x.t() * weight).sum()
        assert saved.alive == x.nbytes
        y.backward()
        del y
    assert saved.alive == 0
    assert saved.peak == x.nbytes


def test_the_list_for_a_gpu_has_commands_that_exist(tmp_path: Path) -> None:
    parser = build_parser()
    for device, tiny in (("cuda", False), ("cpu", True)):
        commands = all_on_gpu.parts(tmp_path, device, tiny)
        assert {"tests", "operators", "switches", "train"} <= commands.keys()
        for command in commands.values():
            if command[2] == "fastass":
                _, unknown = parser.parse_known_args(command[3:])
                assert not unknown
