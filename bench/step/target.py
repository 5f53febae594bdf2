"""`fastass bench target`: the wall time until a run is as good as the AdaptSegNet baseline's end.

The baseline trains GA+CSA to its end, from files, and is evaluated once; that mIoU is the target.
fastass trains its best method on the same labelled images, from the same start, and is evaluated on
the way, until it reaches the target. The baseline's time has its steps alone. fastass's time also
has the start of the run, the evaluations and the checkpoints.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastass.bench.step.candidate import Candidate, reference
from fastass.config.presets import TOYCITY_SGD, preset
from fastass.config.schema import Config
from fastass.config.text import override
from fastass.evaluation.evaluate import evaluate
from fastass.models.deeplab import build_deeplab
from fastass.reproduce.toycity import (
    SHIFT,
    SOURCE_SIZE,
    START_STEPS,
    TARGET_SIZE,
    data_flags,
)
from fastass.runtime.device import setup_runtime
from fastass.tracking.terminal import reporter
from fastass.training.open_data import open_training_data
from fastass.training.run import train


@dataclass(frozen=True, kw_only=True)
class Race:
    """labelled: target images. steps: of the baseline. own_steps: over which fastass's rate decays.
    every: steps between fastass's evaluations."""

    labelled: int
    seed: int
    steps: int
    own_steps: int
    every: int


@dataclass(frozen=True)
class Result:
    """Seconds and mIoU in percent. reached: None if fastass ended below the target."""

    labelled: int
    seed: int
    target: float
    baseline_seconds: float
    reached: float | None
    seconds: float
    steps: int

    @property
    def ratio(self) -> float | None:
        """How many times sooner fastass is there."""
        return None if self.reached is None else self.baseline_seconds / self.seconds

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}


def run(race: Race, start: Config, say: Callable[[str], None]) -> Result:
    """One race. start: the configuration of both, without method and steps; ToyCity is there."""
    with tempfile.TemporaryDirectory() as folder:
        say("start")
        begin = _with(start, method="source_only", steps=START_STEPS, seed=race.seed)
        train(begin, Path(folder) / "start", reporter(plain=True))
        same = _with(
            start,
            labelled=race.labelled,
            labelled_seed=race.seed,
            seed=race.seed,
            init=str(Path(folder) / "start" / "last"),
        )
        say("AdaptSegNet baseline")
        target, baseline_seconds = baseline(_with(same, method="ga+csa", steps=race.steps))
        say("fastass")
        ours = replace(
            same,
            method="joint",
            mix=True,
            optim=preset("toycity").optim,
            norm_statistics="domain",
            steps=race.own_steps,
            eval_every=race.every,
            save_every=race.own_steps,
        )
        reached, seconds, steps = until(target, ours, Path(folder) / "ours")
    return Result(race.labelled, race.seed, target, baseline_seconds, reached, seconds, steps)


def base_config(source: str | None, target: str | None) -> Config:
    """The settings of both, on ToyCity as in docs/results, or on data in its layouts.

    Images are normalised as the baseline's loader does it. ToyCity is generated if it is missing.
    """
    if source is None or target is None:
        words = data_flags("gta5", SHIFT)
        source, target = words[1], words[3]
    toy = {"data.source_size": SOURCE_SIZE, "data.target_size": TARGET_SIZE}
    changes = {
        **toy,
        "data.source": source,
        "data.target": target,
        "data.normalize": "bgr",
        "start_steps": 0,
        "labelled": 1,
        "mix": False,
        "eval_every": 0,
        **TOYCITY_SGD,
    }
    return override(preset("toycity"), changes).resolved()


def baseline(config: Config) -> tuple[float, float]:
    """Train the AdaptSegNet baseline → its mIoU on target val, and the seconds of its steps."""
    path = reference("AdaptSegNet baseline", config, "batch", data="own")
    seconds = 0.0
    with Candidate(path) as candidate:
        for _ in range(config.steps):
            seconds += sum(candidate.ask("step").values())
        weights: Mapping[str, torch.Tensor] = candidate.ask("generator_weights")
    runtime = setup_runtime(config.runtime)
    generator = build_deeplab(config.model).to(runtime.device)
    generator.load_state_dict(weights, strict=False)  # torch's norms count batches; ours do not
    data, _ = open_training_data(config, reporter(plain=True))
    scores = evaluate(generator, data.val_batches(), runtime, data.classes)
    return scores.miou, seconds


class _Reached(Exception):
    """fastass is as good as the baseline."""


def until(target: float, config: Config, out: Path) -> tuple[float | None, float, int]:
    """Train until an evaluation has `target` → (mIoU or None, seconds, steps)."""
    begin = time.perf_counter()
    found: tuple[float, int] = (0.0, 0)

    def see(record: dict[str, Any]) -> None:
        nonlocal found
        if "eval" in record:
            found = (record["eval"]["miou"], record["step"])
            if found[0] >= target:
                raise _Reached

    try:
        train(config, out, reporter(plain=True), on_record=see)
    except _Reached:
        return found[0], time.perf_counter() - begin, found[1]
    return None, time.perf_counter() - begin, found[1]


def _with(config: Config, **values: Any) -> Config:
    return replace(config, **values).resolved()
