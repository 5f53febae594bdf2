"""A whole run: check the configuration, open the data, build, train, summarise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastass.checkpoint.run_directory import (
    SUMMARY,
    RunDirectory,
    check_same,
    fit_ranks,
    has_checkpoint,
    inspect_run,
    make_run,
)
from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.method.adaptation import method_spec
from fastass.models.weights.init import init_weights
from fastass.runtime.ddp import check_parallel
from fastass.runtime.device import Runtime, choose_device, setup_runtime
from fastass.runtime.process_group import World, join
from fastass.tracking.progress import Reporter, Silent
from fastass.tracking.services import Loggers
from fastass.tracking.services import check as check_loggers
from fastass.training.concurrent_backward import describe_backward
from fastass.training.loop import Trainer
from fastass.training.open_data import open_training_data
from fastass.training.optimizers.build import describe_optimizers, describe_rates
from fastass.training.step import build
from fastass.training.summary import table


def train(
    config: Config,
    out: Path,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
) -> dict[str, Any]:
    """Run a configuration in the directory `out` and return its summary.

    Everything the user gave is checked before anything in `out` is touched. Raises UserError or
    DataError for bad input, TrainingFailure when training can't go on, Interrupted on a signal.
    """
    config = config.resolved()
    _check(config)
    device = choose_device(config.runtime.device)
    with join(device.type, config.distributed.timeout) as world:
        if world.size > 1 and device.index is not None:
            raise UserError(f"device: {device} would be every rank's; use --device {device.type}")
        if device.type == "cuda" and world.grouped:
            device = torch.device("cuda", world.local_rank)
            torch.cuda.set_device(device)
        config = replace(config, distributed=replace(config.distributed, world=world.size))
        runtime = setup_runtime(replace(config.runtime, device=str(device)))
        check_parallel(config, runtime, world)
        resuming = world.broadcast_from_main(
            lambda: inspect_run(out, resume=resume, overwrite=overwrite)
        )
        with reporter if world.main else Silent() as report:
            return _train(config, out, report, runtime, world, resuming, stop_at)


def _train(
    config: Config,
    out: Path,
    reporter: Reporter,
    runtime: Runtime,
    world: World,
    resuming: bool,
    stop_at: int | None,
) -> dict[str, Any]:
    if resuming:
        config = fit_ranks(out, config)
    data, config = world.main_first(lambda: open_training_data(config, reporter))
    data = replace(data, rank=world.rank, world=world.size)
    spec = method_spec(config.method, len(data.labelled_names))
    if resuming:
        check_same(out, config, data.labelled_names, reporter.line)
        if (done := _finished(out)) is not None:
            reporter.line(f"{out} is complete")
            reporter.line(table(done))
            return done
    backward = describe_backward(config, runtime.device, world)
    optimizers = describe_optimizers(config, runtime.device)
    reporter.line(
        f"{runtime.line} · optimizers {optimizers}{backward}"
        f"{world.describe()}{describe_rates(config)}"
    )
    reporter.line(data.describe(spec))
    module = build(config, spec)
    if config.init and not (resuming and has_checkpoint(out)):
        report = init_weights(module.generator, config.init, config.allow_mismatch)
        reporter.line(str(report))
        if report.normalize not in (None, config.data.normalize):
            reporter.line(
                f"these weights were made with --data-normalize {report.normalize}, "
                f"this run uses {config.data.normalize}"
            )
    if world.main and not resuming:
        make_run(out, config, data.labelled_names)
    with Loggers(out, config, reporter.line) as loggers:
        run = RunDirectory(out, writes=world.main, also=loggers.log)
        trainer = Trainer(module, config, data, spec, runtime, run, reporter, world)
        if resuming:
            trainer.state.restore()
        return trainer.fit(stop_at)


def _finished(out: Path) -> dict[str, Any] | None:
    path = out / SUMMARY
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _check(config: Config) -> None:
    """Values that no run can have."""
    for name in ("steps", "batch", "accumulate", "save_every", "log_every"):
        if getattr(config, name) < 1:
            raise UserError(f"{name}: expected at least 1, got {getattr(config, name)}")
    for name in ("start_steps", "labelled", "eval_every"):
        if getattr(config, name) < 0:
            raise UserError(f"{name}: expected 0 or more, got {getattr(config, name)}")
    if config.optim.base_batch < 1:
        raise UserError(f"optim.base_batch: expected at least 1, got {config.optim.base_batch}")
    if config.method == "oracle" and config.labelled == 0 and config.labelled_list is None:
        raise UserError("method oracle trains on labelled target images; give --labelled N")
    check_loggers(config.log)
    torch.manual_seed(config.seed)
