"""The training loop of one member of an elastic run.

Between two steps all members do the same: they log, evaluate and save at the same steps, from equal
weights. Only the oldest one writes; it holds the run's lock. So a member that dies there takes
nothing with it, and the next oldest writes what is missing.
"""

import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fastass.checkpoint.async_writer import copied
from fastass.checkpoint.files import Checkpoint
from fastass.checkpoint.pointers import checkpoint_path, list_checkpoints
from fastass.checkpoint.shared_run import SharedLock, SharedRunDirectory
from fastass.config.schema import Config
from fastass.errors import TrainingFailure, UserError
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.device import Runtime
from fastass.runtime.elastic import Members, StepLost
from fastass.runtime.signals import Interrupted
from fastass.tracking.progress import Reporter
from fastass.training.data import TrainingData
from fastass.training.elastic.share_reader import ShareReader
from fastass.training.elastic.step import ElasticStep
from fastass.training.loop import Trainer
from fastass.training.optimizers.build import set_rates
from fastass.training.ranks.agreement import difference
from fastass.training.summary import read_summary, table


class Membership(NamedTuple):
    """What makes a process a member: the address of torchft's lighthouse, and the run's lock."""

    lighthouse: str
    lock: SharedLock


class _RunIsComplete(Exception):
    """The members that this one meant to join have ended the run meanwhile."""


class ElasticTrainer(Trainer):
    """One member. `fit` joins the others, trains with them, and returns the summary."""

    train_step: ElasticStep
    run: SharedRunDirectory

    def __init__(
        self,
        train_step: ElasticStep,
        config: Config,
        data: TrainingData,
        spec: MethodSpec,
        runtime: Runtime,
        run: SharedRunDirectory,
        reporter: Reporter,
        membership: Membership,
    ) -> None:
        super().__init__(train_step, config, data, spec, runtime, run, reporter)
        self.lighthouse, self.lock = membership.lighthouse, membership.lock
        self.fingerprint: Mapping[str, str] = {}  # must be that of all members
        self.took_over: Callable[[int], None] = lambda step: None  # begins to write at a step
        self.reader = ShareReader(data, config, runtime.device)
        self._names: list[str] = []  # of the members of the last step
        self._owed: tuple[int, set[str]] = (-1, set())  # a step's checkpoint, for the next writer
        self._told_of_lock = self._loaded = False  # _loaded: another member's state, in this step

    def fit(self, stop_at: int | None = None) -> dict[str, Any]:
        """Train to the end, or to `stop_at`, with whoever takes part."""
        timeout, step = self.config.distributed.timeout, self.progress.step
        try:
            with Members(self.lighthouse, timeout, self._state, self._load, step) as self.members:
                self.train_step.members = self.members
                return super().fit(stop_at)
        except _RunIsComplete:
            return self._finish()
        finally:
            self.reader.close()

    def _state(self) -> dict[str, Any]:
        """What a newcomer needs: all that a checkpoint holds."""
        weights = self.train_step.module.state_dict()
        unwritten = {"records": self.run.kept, "checkpoint": self._owed}
        return {**self.state.content(), "weights": weights, "unwritten": unwritten}

    def _load(self, state: dict[str, Any]) -> None:
        """Go on from the state of another member, which may have taken a step that this one lost.

        What was logged and saved at that step may still be unwritten, also if this one writes.
        """
        state = copied(state)
        self.run.kept, self._owed = state["unwritten"]["records"], state["unwritten"]["checkpoint"]
        self.state.use(Checkpoint(Path("another member"), state["weights"], state))
        self._loaded = True
        self.meters.start_clock()

    def _advance(self, batches: Iterator[StepBatch], adapt: bool) -> int:
        """Take one step with the members that it has; again where one of them is lost."""
        while True:
            try:
                self._begin()
                return self._take_step()
            except StepLost:
                self._note("a member was lost; the step is repeated by those who are left")

    def _begin(self) -> None:
        """Learn who takes part, and who writes. The state may become another member's."""
        self.members.begin()
        if self.members.rank == 0:
            self._write_from_now_on()
        else:
            self.run.forget_kept()
            if self.lock.held:  # it was free for a moment: a writer had died
                self.run.writes = False
                self.lock.release()
        self._loaded = False
        if self.members.changed:
            self._introduce()
            self.members.changed = False

    def _introduce(self) -> None:
        """Compare this member with the others, and log who came and who left."""
        own = (self.members.name, dict(self.fingerprint), self._weights())
        members = self.members.gather(own)
        names = [name for name, _, _ in members]
        found = difference([fingerprint for _, fingerprint, _ in members], self.members.rank)
        if found is not None:
            raise UserError(
                f"differs from the member {names[found.rank]}: {found.name} is {found.value} here "
                f"and {found.right} there; start every member with the same command and files"
            )
        batch, step = self.config.global_batch, self.progress.step
        if self.members.rank >= batch:
            raise UserError(
                f"the {batch} images of a step are divided among {batch} members already; give a "
                "larger --batch or --accumulate"
            )
        if own[2] != members[0][2]:
            # Two groups began apart, or machines of several kinds have rounded differently.
            self._note(f"the weights differ from those of {names[0]}, which are taken over")
            self.members.fall_behind()
        before, self._names = self._names, names
        if names == before:
            return
        left = [name for name in before if name not in names]
        came = [name for name in names if name not in before] if before else []
        changes = {"left": left, "came": came}
        parts = [f"{', '.join(who)} {what}" for what, who in changes.items() if who]
        parts.append(f"members {', '.join(names)} ({len(names)})")
        position = step * batch
        self._note(f"{'; '.join(parts)}; the order of samples goes on at position {position}")
        self.run.log({"step": step, "members": names, **changes, "position": position})

    def _weights(self) -> int:
        """A checksum of all weights and running statistics."""
        checksum = 0
        for value in self.train_step.module.state_dict().values():
            checksum = zlib.crc32(value.cpu().contiguous().numpy(), checksum)
        return checksum

    def _take_step(self) -> int:
        """This member's share of the next step."""
        step, began = self.progress.step, time.perf_counter()
        adapt = step >= self.config.start_steps
        spec = self.spec if adapt else self.spec.start()
        batches = self.reader.read(spec, step, self.members.rank, self.members.size)
        waited = time.perf_counter() - began
        skipped = sum(batch.skipped for batch in batches)
        streams = sum(stream is not None for stream in batches[0])
        set_rates(self.train_step.optimizers.values(), self._decay(step))
        own = [self._received(batch) for batch in batches]
        terms = self.train_step.take(own, skipped, adapt=adapt)
        self._skipped += self.train_step.skipped
        self.progress.step = step + 1
        self.meters.add(step + 1, terms, self.config.global_batch * streams, waited)
        return self.stop.answer()

    def _write_from_now_on(self) -> None:
        """The oldest member writes, as soon as it has the lock: first what is still unwritten."""
        wrote = self.run.writes
        if wrote and not self._loaded:
            return
        if not self.lock.take():
            if not self._told_of_lock:
                self._note(f"{self.lock.holder}; nothing is written until it ends")
            self._told_of_lock = True
            return
        if read_summary(self.run.path, self.reporter.line) is not None:
            raise _RunIsComplete
        step, saved = self.progress.step, list_checkpoints(self.run.path)
        if saved and saved[0] > checkpoint_path(self.run.path, step + 1):
            raise TrainingFailure(
                f"{self.run.path}: the member that continued the run from {saved[0].name} ended "
                "before it trained; start again with the same command"
            )
        self._told_of_lock = False
        self.run.take_over(step, self.state.evaluated)
        if not wrote:
            self.took_over(step)
        if self._names and not wrote:
            self._note(f"{self.members.name} writes into {self.run.path} from now on")
        at, links = self._owed
        if at == step:
            self.state.save(*links)
            self.state.wait()

    def _save(self, *links: str) -> None:
        """The checkpoint is on disk before the next step, so no death of the writer loses it."""
        super()._save(*links)
        self.state.wait()
        at, owed = self._owed
        step = self.progress.step
        self._owed = (step, {*links} | (owed if at == step else set()))

    def _evaluate_if_due(self, final: bool = False) -> None:
        if final:  # a member that has yet to repeat the last step does not wait for this one
            self.members.leave()
        super()._evaluate_if_due(final)

    def _finish(self) -> dict[str, Any]:
        """The summary, which the first member that gets here writes."""
        if not self.lock.take(patience=self.config.distributed.timeout):
            raise TrainingFailure(f"{self.lock.holder} and does not end; the run is not summarised")
        if (summary := read_summary(self.run.path, self.reporter.line)) is not None:
            self.reporter.line(table(summary))
            return summary
        self._write_from_now_on()
        return super()._finish()

    def _interrupted(self, number: int) -> NoReturn:
        if self.run.writes:
            super()._interrupted(number)
        name = signal.Signals(number).name
        raise Interrupted(f"{name}: left the run at step {self.progress.step}", 128 + number)
