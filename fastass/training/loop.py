"""The training loop: read batches, step, measure, evaluate, save."""

import json
import signal
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from fastass import kernels
from fastass.checkpoint.own_files import SUMMARY
from fastass.checkpoint.pointers import BEST, START
from fastass.checkpoint.run_directory import RunDirectory
from fastass.config.schema import NAMED_WEIGHTS, Config
from fastass.errors import USER_ERRORS, TrainingFailure
from fastass.evaluation.evaluate import Scores, evaluate, evaluate_both
from fastass.evaluation.model_selection import selection
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.ddp import average_statistics
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import SINGLE_PROCESS, AsyncMax, World
from fastass.runtime.signals import Interrupted, Interruption
from fastass.tracking.progress import Reporter, TrainStats
from fastass.training.data import TrainingData
from fastass.training.meters import Meters
from fastass.training.optimizers.build import decay, set_rates
from fastass.training.ranks.times import Stragglers
from fastass.training.step import TrainStep
from fastass.training.summary import before_and_after, statistics_note, summarize, table
from fastass.training.train_state import Progress, TrainState


class _Stop(Exception):
    """A signal arrived during an evaluation."""

    def __init__(self, number: int) -> None:
        self.number = number


class Trainer:
    """One run in this process. `fit` returns the summary."""

    def __init__(
        self,
        train_step: TrainStep,
        config: Config,
        data: TrainingData,
        spec: MethodSpec,
        runtime: Runtime,
        run: RunDirectory,
        reporter: Reporter,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.config, self.data, self.runtime = config, data, runtime
        self.spec, self.run, self.reporter = spec, run, reporter
        self.train_step, self.world = train_step, world
        train_step.micro_batches.note = self._note
        self.meters = Meters(world, train_step.exchange_clock)
        self.stragglers = Stragglers()
        self.state = TrainState(train_step, config, data.classes, self.meters, run, reporter, world)
        self.interruption = Interruption()
        self.stop = AsyncMax(world, lambda: self.interruption.caught or 0)
        self._skipped = 0  # by this rank, since the last log
        self._averaged_at = self._saved_at = -1  # steps

    @property
    def progress(self) -> Progress:
        """Where the run stands."""
        return self.state.progress

    def fit(self, stop_at: int | None = None) -> dict[str, Any]:
        """Train to the end, or to `stop_at`. Raises Interrupted after saving on a signal.

        When it returns or raises, nothing is being written any more.
        """
        try:
            return self._fit(stop_at)
        except Exception as error:
            error.add_note(f"step {self.progress.step + 1}")  # where a lost rank is reported
            raise
        finally:
            self.state.finish()

    def _fit(self, stop_at: int | None) -> dict[str, Any]:
        with self.interruption:
            for end in (self.config.start_steps, self.config.total_steps):
                self._train_until(end if stop_at is None else min(end, stop_at))
                if self.progress.step == end == self.config.start_steps > 0:
                    self._finish_start()
                if stop_at is not None and stop_at <= self.progress.step < self.config.total_steps:
                    self._save()
                    self.state.wait()
                    raise Interrupted(f"saved at step {self.progress.step}, as asked", 0)
            self._evaluate_if_due(final=True)
            self.state.wait()
        return self.world.broadcast_from_main(self._finish)

    def _train_until(self, end: int) -> None:
        step = self.progress.step
        if step >= end:
            return
        adapt = step >= self.config.start_steps
        if step > self.config.start_steps:  # resumed from a checkpoint saved before its evaluation
            self._evaluate_if_due()
        self.reporter.phase("train" if adapt else "start", self.config.total_steps, step)
        batches = self._batches(step, adapt)
        self.meters.start_clock()
        first = step
        while self.progress.step < end:
            stop = self._advance(batches, adapt)
            step = self.progress.step
            if step == first + 1 and (chosen := kernels.describe_fused()):
                self.reporter.line(chosen)
            if step % self.config.log_every == 0 or step == end:
                self._log()
            if adapt:
                self._evaluate_if_due()
            if stop or step % self.config.save_every == 0:
                self._save()
                if stop:
                    self._interrupted(stop)
                self.meters.start_clock()

    def _advance(self, batches: Iterator[StepBatch], adapt: bool) -> int:
        """Take one step → the signal that a rank has received, or 0."""
        step, start = self.progress.step, time.perf_counter()
        micro = [next(batches) for _ in range(self.config.accumulate)]
        waited = time.perf_counter() - start
        set_rates(self.train_step.optimizers.values(), self._decay(step))
        self.stop.ask()
        terms = self.train_step.step(micro, adapt=adapt)
        images = sum(s.images.shape[0] for batch in micro for s in batch if s is not None)
        self.progress.step = step + 1
        self.meters.add(step + 1, terms, images, waited)
        return self.stop.answer()

    def _decay(self, step: int) -> float:
        config = self.config
        return decay(step, config.optim, start_steps=config.start_steps, steps=config.steps)

    def _batches(self, step: int, adapt: bool) -> Iterator[StepBatch]:
        first = step * self.config.accumulate
        spec = self.spec if adapt else self.spec.start()
        for batch in self.data.batches(first, spec, self.runtime.device):
            self._skipped += batch.skipped
            yield self._received(batch)

    def _received(self, batch: StepBatch) -> StepBatch:
        """A batch on the device; the bad samples that were found in it are reported."""
        for line in batch.found_bad:
            self.reporter.line(f"skipped: {line}")
        return batch.to(self.runtime.device)

    def _log(self) -> None:
        try:
            means = self.meters.flush()
        except TrainingFailure as error:
            raise TrainingFailure(f"{error}; {self.state.kept()}") from None
        if not means:
            return
        if self.train_step.self_training is not None:
            means["mixing"] = self.train_step.self_training.flush()
        if (times := self.meters.rank_times) is not None:
            means["ranks"] = times.record()
            for line in self.stragglers.see(times):
                self.reporter.line(f"step {self.progress.step}: {line}")
        skipped = self.world.sum(torch.tensor(self._skipped))
        self.progress.skipped += int(skipped)
        self._skipped = 0
        rate = self.train_step.optimizers["generator"].param_groups[0]["lr"]
        progress = self.progress
        self.run.log({"step": progress.step, "lr": rate, "skipped": progress.skipped, **means})
        self.reporter.trained(progress.step, self._stats(means))

    def _synchronise(self) -> None:
        """Before evaluating or saving: log what is measured, average the running statistics."""
        self._log()
        if self._averaged_at != self.progress.step:
            average_statistics(self.train_step.module, self.world)
            self._averaged_at = self.progress.step

    def _note(self, line: str) -> None:
        """A line about the step that is running."""
        self.reporter.line(f"step {self.progress.step + 1}: {line}")

    def _stats(self, means: dict[str, Any]) -> TrainStats:
        device, gpu = self.runtime.device, None
        if device.type == "cuda":
            peak, size = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
            gpu = (peak / 2**30, size / 2**30)
        return TrainStats(means["terms"], means["images_per_second"], means["data_wait"], gpu)

    def _evaluate_if_due(self, final: bool = False) -> None:
        interval, step = self.config.eval_every, self.progress.step
        due = final or (interval and (step - self.config.start_steps) % interval == 0)
        if not due or self.progress.evaluated_at == step:
            return
        scores = self._evaluate()
        self.progress.evaluated_at = step
        self.progress.last = scores.record()
        best = scores.miou > self.progress.best
        self.progress.best = max(self.progress.best, scores.miou)
        self._saved_at = -1
        self._save(*[BEST] if best else [])

    def _finish_start(self) -> None:
        """Evaluate the complete start and keep it, to compare the method with it."""
        if self.progress.start is not None:
            return
        self.progress.start = self._evaluate().record()
        self._saved_at = -1
        self._save(START)

    def _evaluate(self) -> Scores:
        """Save, then evaluate: a damaged validation image costs no training."""
        self._save()
        self.state.wait()
        step = self.progress.step
        try:
            scores = evaluate_both(
                self._evaluate_once,
                self.train_step.evaluated_target_statistics,
                judged=self.config.norm_statistics,
            )
        except _Stop as stop:  # here, where both statistics are in their places
            self._save()
            self._interrupted(stop.number)
        self.run.log({"step": step, "eval": scores.record()})
        self.reporter.scored(step, scores.miou, statistics_note(scores.by_statistics))
        self.reporter.phase("train", self.config.total_steps, step)
        self.meters.start_clock()
        return scores

    def _evaluate_once(self) -> Scores:
        """Evaluate with the running statistics that the norms now hold."""
        self.reporter.phase(f"evaluate at {self.progress.step}", len(self.data.val))
        done = 0
        on_every_rank = len(self.data.val) // self.world.size  # one more image on some

        def advance(images: int) -> None:
            nonlocal done
            done += images
            self.reporter.advance(min(done * self.world.size, len(self.data.val)))
            if done <= on_every_rank:
                self.stop.ask()
                if stop := self.stop.answer():
                    raise _Stop(stop)

        try:
            return evaluate(
                self.train_step.evaluated,
                self.data.val_batches(),
                self.runtime,
                self.data.classes,
                self.config.data.report,
                advance,
                world=self.world,
            )
        except USER_ERRORS as error:
            raise type(error)(f"{error}; {self.state.kept()}") from None

    def _save(self, *links: str) -> None:
        self._synchronise()
        if self._saved_at != self.progress.step:
            self.state.save(*links)
            self._saved_at = self.progress.step

    def _interrupted(self, number: int) -> NoReturn:
        self.state.wait()
        raise Interrupted(
            f"{signal.Signals(number).name}: saved at step {self.progress.step}; continue with "
            f"`fastass train --out {self.run.path} --resume`",
            128 + number,
        )

    def _before(self) -> str | None:
        """The whole network that the run started from, to compare the finished one with."""
        init = self.config.init
        return None if self.config.allow_mismatch or init in NAMED_WEIGHTS else init

    def _finish(self) -> dict[str, Any]:
        progress = self.progress
        assert progress.last is not None
        summary = summarize(
            self.config,
            self.runtime,
            labelled=len(self.data.labelled_names),
            start=progress.start,
            last=progress.last,
            best_miou=progress.best,
            selection=selection(
                self.run.path, self.config.start_steps, (progress.evaluated_at, progress.last)
            ),
            images_per_second=self.meters.images_per_second,
            seconds=self.meters.seconds,
            skipped=progress.skipped,
        )
        with self.train_step.judged() as generator:
            sheet = before_and_after(
                self.run.path,
                generator,
                self.data,
                self.runtime,
                init=self._before(),
                statistics=self.config.norm_statistics,
            )
        self.run.write(SUMMARY, json.dumps(summary, indent=2) + "\n")
        self.reporter.line(table(summary))
        self.reporter.line(f"contact sheet: {sheet}")
        self.reporter.line(f"See everything on one page: fastass report {self.run.path}")
        return summary
