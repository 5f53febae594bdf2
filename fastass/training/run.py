"""A whole run: check the configuration, open the data, build, train, summarise."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastass.checkpoint.fingerprint import fingerprint
from fastass.checkpoint.own_files import CONFIG, SHEET
from fastass.checkpoint.resume import (
    adopt_roots,
    check_same,
    fit_ranks,
    weights_fingerprint,
    with_absolute_paths,
)
from fastass.checkpoint.run_directory import (
    RunDirectory,
    adopt_run,
    has_checkpoint,
    inspect_run,
    make_run,
)
from fastass.checkpoint.run_lock import PATIENCE, locked_run
from fastass.checkpoint.shared_run import SharedLock, SharedRunDirectory, begin_or_join
from fastass.checkpoint.starting_weights import check_init, start_from
from fastass.config.schema import Config
from fastass.config.text import as_text
from fastass.errors import UserError
from fastass.method.adaptation import MethodSpec, method_spec
from fastass.models.foreign.hugging_face import with_configuration
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.packed.dataset import AnyDataset
from fastass.runtime.ddp import check_parallel
from fastass.runtime.device import Runtime, choose_device, setup_runtime
from fastass.runtime.openmp import threads_spin
from fastass.runtime.process_group import World, join
from fastass.tracking.progress import Reporter, Silent
from fastass.tracking.services import Loggers, check_services
from fastass.training.check_values import check_values
from fastass.training.cuda_graph import check_cuda_graphs, describe_cuda_graph
from fastass.training.data import TrainingData
from fastass.training.elastic.check import check_elastic
from fastass.training.elastic.step import ElasticStep
from fastass.training.elastic.trainer import ElasticTrainer, Membership
from fastass.training.loop import Trainer
from fastass.training.memory.auto_batch import with_batch
from fastass.training.open_data import open_training_data
from fastass.training.optimizers.build import describe_optimizers, describe_rates
from fastass.training.ranks.agreement import (
    SAME_COMMAND,
    SAME_FILES,
    SAME_INSTALLATION,
    check_agreement,
    check_enough_images,
    contents,
    installation,
    settings,
)
from fastass.training.rare_class import rare_class_orders
from fastass.training.step import TrainStep, build
from fastass.training.summary import read_summary, table


def train(
    config: Config,
    out: Path | None,
    reporter: Reporter,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    elastic: str | None = None,
    on_record: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Run a configuration in the directory `out` (None: runs/PRESET) and return its summary.

    Everything that can be checked is checked before anything is written into `out`: the values, the
    data's lists, the first images and labels of every stream, the weights to start from. The lock
    of `out` is taken before anything in it is read, and held to the end. Seeds PyTorch's global
    random numbers with `config.seed` and sets this process up for `config.runtime`. Raises
    UserError or DataError for bad input, TrainingFailure when training can't go on, Interrupted on
    a signal. elastic: the address of torchft's lighthouse, under which this process is one of
    several members that may end and come; it begins, continues or joins the run. on_record: called
    on the process that writes, with each record of metrics.jsonl.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; give one of them")
    run = out if out is not None else Path("runs") / (config.preset or "run")
    config = config.resolved()
    check_values(config)
    if elastic is not None:
        check_elastic(config, elastic, overwrite=overwrite)
    check_services(config.log)
    torch.manual_seed(config.seed)
    device = choose_device(config.runtime.device)
    with join(device.type, config.distributed.timeout) as world:
        if world.size > 1 and device.index is not None:
            raise UserError(
                f"device: every rank would use {device}; give --device {device.type}, and each "
                "rank uses a GPU of its own"
            )
        if device.type == "cuda" and world.grouped:
            device = torch.device("cuda", world.local_rank)
        config = replace(config, distributed=replace(config.distributed, world=world.size))
        where = replace(config.runtime, device=str(device))
        runtime = setup_runtime(where, fixed_shapes=True)
        check_agreement(world, lambda: installation(runtime), SAME_INSTALLATION)
        options = {"--resume": resume, "--overwrite": overwrite, "--stop-at": stop_at}
        check_agreement(world, lambda: settings(config, **options), SAME_COMMAND)
        check_parallel(config, runtime.device, world)
        check_cuda_graphs(config, runtime, world)

        def inspect() -> bool:
            joins = elastic is not None
            return inspect_run(run, resume=resume or joins, overwrite=overwrite)

        world.broadcast_from_main(inspect)  # a directory of others is not touched by the lock
        with reporter if world.main else Silent() as progress, ExitStack() as held:
            if elastic is not None:
                lock = held.enter_context(SharedLock(run))
                resuming = begin_or_join(lock, config.distributed.timeout)
                member = Membership(elastic, lock)
                return _train(
                    config, run, progress, runtime, world, resuming, stop_at, on_record, member
                )
            if world.main:
                patience = PATIENCE if resume else 0.0
                held.enter_context(locked_run(run, progress.line, patience=patience))
            resuming = world.broadcast_from_main(inspect)
            return _train(config, run, progress, runtime, world, resuming, stop_at, on_record)


def saved_config(run: Path | None, resume: bool) -> Path | None:
    """The configuration file that `--resume` continues from, where the run has one."""
    path = run / CONFIG if run is not None and resume else None
    return path if path is not None and path.is_file() else None


def _train(
    config: Config,
    out: Path,
    progress: Reporter,
    runtime: Runtime,
    world: World,
    resuming: bool,
    stop_at: int | None,
    on_record: Callable[[dict[str, Any]], object] | None,
    member: Membership | None = None,
) -> dict[str, Any]:
    config, data, inputs = _open(config, out, progress, world, resuming)
    if resuming and (summary := read_summary(out, progress.line)) is not None:
        progress.line(f"{out} is complete")
        progress.line(table(summary))
        return summary
    spec = method_spec(config.method, len(data.labelled_names), config.mix)
    config, data = with_batch(config, spec, data, runtime, world, progress.line)
    orders = world.broadcast_from_main(lambda: rare_class_orders(data, spec, progress))
    data = replace(data, rare_class=orders)
    optimizers = describe_optimizers(config.optim, runtime.device)
    module = build(config, spec)
    step: TrainStep
    if member is None:
        step = TrainStep(module, config, runtime, world)
    else:
        step = ElasticStep(module, config, runtime)
    progress.line(_heading(step, optimizers))
    progress.line(data.describe(config.whole_method, spec))
    if config.norm_statistics == "domain" and not spec.sees_target:
        progress.line(f"norm statistics: {config.method} forwards no target image; both are equal")
    # The first member alone reads the last checkpoint; others get the state that it has by then.
    restores = resuming and (member is None or (member.lock.held and has_checkpoint(out)))
    if not resuming or (member is not None and not has_checkpoint(out)):
        loaded = world.main_first(lambda: start_from(step.generator, config, data.classes.names))
        if loaded is not None:
            progress.line(str(loaded))
        step.module.restart_target_statistics()
    _read_first(data, spec, config, runtime)
    world.barrier()  # every rank has checked what it reads
    if world.main and not resuming:
        inputs["init"] = weights_fingerprint(config.init)
        make_run(out, config, data.labelled_names, inputs)
    with Loggers(out, config.log, as_text(config), progress.line) as loggers:

        def also(record: dict[str, Any]) -> None:
            loggers.log(record)
            if on_record is not None:
                on_record(record)

        trainer: Trainer
        if member is None:
            run = RunDirectory(out, writes=world.main, also=also)
            trainer = Trainer(step, config, data, spec, runtime, run, progress, world)
        else:
            assert isinstance(step, ElasticStep)
            shared = SharedRunDirectory(out, writes=False, also=also)  # before the first step
            trainer = ElasticTrainer(step, config, data, spec, runtime, shared, progress, member)
            trainer.fingerprint = {**installation(runtime), **contents(data, inputs, config)}
            trainer.took_over = lambda at: setattr(loggers, "resumed_at", at)
        if restores:
            trainer.state.restore()
            loggers.resumed_at = trainer.progress.step
            if world.main:
                adopt_run(out, inputs)
        summary = trainer.fit(stop_at)
        if trainer.run.writes:
            loggers.show(trainer.progress.step, out / SHEET)
        return summary


def _open(
    config: Config, out: Path, progress: Reporter, world: World, resuming: bool
) -> tuple[Config, TrainingData, dict[str, Any]]:
    """Open the data and check them; → configuration with paths, data, and their fingerprints."""
    if resuming:
        config = adopt_roots(out, fit_ranks(out, config))
    else:
        check_init(config)
    config = replace(config, model=world.main_first(lambda: with_configuration(config.model)))
    data, config = world.main_first(lambda: open_training_data(config, progress))
    config = with_absolute_paths(config)
    data = replace(data, rank=world.rank, world=world.size)
    inputs = fingerprints(data)
    check_agreement(world, lambda: contents(data, inputs, config), SAME_FILES)
    check_enough_images(world, data)
    if resuming:
        names = {name: open_reader(each).names for name, each in _sets(data).items()}
        check_same(out, config, data.labelled_names, inputs, names, progress.line)
    return config, data, inputs


def _heading(step: TrainStep, optimizers: str) -> str:
    """The first line of a run: what was chosen, and why where that is not what was asked for."""
    config, runtime = step.config, step.runtime
    parts = [runtime.line, f"optimizers {optimizers}", step.backward.describe()]
    if runtime.device.type == "cuda":
        parts.append(describe_cuda_graph(config.runtime))
    if runtime.device.type == "cpu" and threads_spin():
        parts.append(
            "idle OpenMP threads spin (slow where other processes use the same cores: call "
            "fastass.wait_passively() before importing torch)"
        )
    rates = describe_rates(config.optim, config.global_batch)
    return f"{' · '.join(parts)}{step.world.describe()}{rates}"


def fingerprints(data: TrainingData) -> dict[str, Any]:
    """The fingerprints of the data sets, for RUN/inputs.json."""
    return {name: fingerprint(each) for name, each in _sets(data).items()}


def _sets(data: TrainingData) -> dict[str, AnyDataset]:
    """The data sets of a run by the names of their flags."""
    sets = {"source": data.source, "target": data.target, "val": data.val}
    return {name: each for name, each in sets.items() if each is not None}


def _read_first(data: TrainingData, spec: MethodSpec, config: Config, runtime: Runtime) -> None:
    """Open every loader of the run and read its first batch; raises for what is wrong with it."""
    for each in (*([spec.start()] if config.start_steps else []), spec):
        with closing(data.batches(0, each, runtime.device)) as batches:  # type: ignore[type-var]
            next(batches)
    next(data.val_batches())
