"""Where a run stands, and its checkpoints: saved while it trains, restored when it resumes."""

import contextlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from fastass.checkpoint.async_writer import AsyncWriter
from fastass.checkpoint.evaluations import evaluations
from fastass.checkpoint.files import (
    MIXED_USED,
    Checkpoint,
    add_target_statistics,
    load_into,
    newest_checkpoint,
    read_checkpoint,
)
from fastass.checkpoint.pointers import CLASSES, CONFIG, LAST, STATE, target
from fastass.checkpoint.run_directory import RunDirectory, has_checkpoint
from fastass.checkpoint.weight_facts import header
from fastass.config.schema import Config
from fastass.config.text import to_yaml
from fastass.errors import TrainingFailure, UserError
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.errors import one_line
from fastass.runtime.process_group import World
from fastass.tracking.progress import Reporter
from fastass.training.meters import Meters
from fastass.training.step import TrainStep


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    best: float = -1.0
    evaluated_at: int = -1
    start: dict[str, Any] | None = None  # evaluation of the supervised start
    last: dict[str, Any] | None = None
    seconds: float = 0.0
    images: int = 0
    skipped: int = 0  # bad samples that were replaced


_SCORES = ("miou", "per_class_iou", "reported_classes", "reported_miou", "confusion")


def read_progress(saved: Any, where: Path) -> Progress:
    """The progress in a state file. UserError for a value that is missing, unknown or foreign."""
    kinds = {f.name: type(f.default) for f in fields(Progress)}
    if not isinstance(saved, dict) or saved.keys() != kinds.keys():
        odd = kinds.keys() ^ (saved.keys() if isinstance(saved, dict) else set())
        raise UserError(
            f"{where}: incomplete or of another kind: {', '.join(sorted(map(str, odd)))}"
        )
    for name, kind in kinds.items():
        value = saved[name]
        if name in ("start", "last"):
            right = value is None or (isinstance(value, dict) and value.keys() >= {*_SCORES})
        else:
            right = isinstance(value, (int, float) if kind is float else int)
        if not right:
            raise UserError(f"{where}: damaged: {name} is {value!r:.80}")
    return Progress(**saved)


class TrainState:
    """The progress of a run, its networks and optimizers, and their checkpoints."""

    def __init__(
        self,
        train_step: TrainStep,
        config: Config,
        classes: ClassTable,
        meters: Meters,
        run: RunDirectory,
        reporter: Reporter,
        world: World,
    ) -> None:
        self.train_step, self.config, self.classes = train_step, config, classes
        self.meters, self.run, self.reporter, self.world = meters, run, reporter, world
        self.progress = Progress()
        self._writer = AsyncWriter(run.path, background=config.save_in_background)

    def restore(self) -> None:
        """Continue from the newest checkpoint that can be used. Raises UserError if there is none.

        One that is damaged, or that lacks a value, is reported and the one before it is used.
        """
        self._restore_newest()
        progress = self.progress
        self.run.forget_after(progress.step, self.evaluated)
        scores = [each["miou"] for _, each in evaluations(self.run.path)]
        self.reporter.resumed(progress.seconds, scores)
        self.reporter.line(f"resuming {self.run.path} at step {progress.step}")

    @property
    def evaluated(self) -> set[int]:
        """The steps whose evaluation this state contains."""
        start = set() if self.progress.start is None else {self.config.start_steps}
        return {self.progress.evaluated_at} | start

    def _restore_newest(self) -> None:
        """The newest checkpoint that can be used: rank 0 looks for it, the others read that one."""
        path: Path | None = None
        if self.world.main:
            path = newest_checkpoint(self.run.path, self.reporter.line, self.use).path
        path = self.world.broadcast_from_main(lambda: path)
        if not self.world.main and path is not None:
            self.use(read_checkpoint(path))

    def use(self, saved: Checkpoint) -> None:
        """Take over what a checkpoint holds. UserError for a state of another kind."""
        where = saved.path / STATE
        progress = read_progress(saved.state.get("position"), where)
        module = self.train_step.module
        if add_target_statistics(saved.weights, module):
            self.reporter.line(f"{saved.path}: {MIXED_USED}")
        load_into(module, saved.weights, saved.path)
        try:
            self.train_step.load_state(saved.state["engine"])
            for optimizer in self.train_step.optimizers.values():
                for parameter, values in optimizer.state.items():
                    for value in values.values():
                        if isinstance(value, Tensor) and value.dim() > 0:
                            value.view_as(parameter)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            reason = one_line(error, 200)
            raise UserError(f"{where}: incomplete or of another kind: {reason}") from None
        self.progress = progress
        self.meters.images, self.meters.seconds = progress.images, progress.seconds

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds beside the weights."""
        progress = self.progress
        progress.images, progress.seconds = self.meters.images, self.meters.seconds
        # The keys are those of every version, so that older checkpoints can be resumed.
        return {"engine": self.train_step.state(), "position": vars(progress)}

    def save(self, *links: str) -> None:
        """Save as `last` and as `links`; of several ranks only one writes."""
        self._check_weights()
        if not self.run.writes:
            return
        state = self.content()
        classes = {"names": self.classes.names, "colors": self.classes.colors}
        texts = {
            CONFIG: to_yaml(self.config),
            CLASSES: json.dumps(classes),
        }
        said = header(self.config.model, self.config.data.normalize, self.classes.names)
        self._writer.save(
            self.progress.step, self.train_step.module, state, texts, ("last", *links), said
        )

    def _check_weights(self) -> None:
        """A finite loss can still leave a non-finite weight behind; it must not be saved."""
        for name, value in self.train_step.module.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise TrainingFailure(
                    f"step {self.progress.step}: weight {name} is not finite; {self.kept()}"
                )

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk. Raises UserError if it can't be written."""
        self._writer.wait()

    def finish(self) -> None:
        """Wait for the disk, whatever it says: an error is on its way already."""
        with contextlib.suppress(UserError):
            self._writer.wait()

    def kept(self) -> str:
        """Which checkpoint the run can be resumed from, in words."""
        with contextlib.suppress(UserError):
            self.wait()
        if not has_checkpoint(self.run.path):
            return "no checkpoint was saved yet"
        return f"the last good checkpoint is {target(self.run.path, LAST)}"
