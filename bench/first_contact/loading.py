"""Stage `dali`: JPEGs of packed shards decoded by DALI, alone and feeding the step."""

import importlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from fastass.bench.first_contact.engine import configured, spec_of, time_steps
from fastass.bench.first_contact.stages import Context
from fastass.bench.meters import synchronize
from fastass.config.schema import Config
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.device import setup_runtime
from fastass.training.step import TrainStep, build

BATCHES = 20


def dali(context: Context) -> None:
    """images/s of the loader alone, then of training from it, at batch 8."""
    try:
        importlib.import_module("nvidia.dali")
    except ImportError as error:
        context.results.write(what="skipped", reason=f"DALI can't be imported: {error}")
        return
    config = configured(context, "frozen", 2 if context.tiny else 8)
    runtime = setup_runtime(config.runtime)
    batches = _batches(context, config)
    for _ in range(5):
        next(batches)
    synchronize(runtime.device)
    begin = time.perf_counter()
    images = 0
    for _ in range(BATCHES):
        images += sum(s.images.shape[0] for s in next(batches) if s is not None)
    synchronize(runtime.device)
    rate = images / (time.perf_counter() - begin)
    context.results.write(what="loading", batch=config.batch, images_per_second=rate)
    engine = TrainStep(build(config, spec_of(config)), config, runtime)

    def step() -> None:
        engine.step([next(batches).to(runtime.device)], adapt=True)

    time_steps(context, config, step, mode="eager, fed by DALI")
    batches.close()  # type: ignore[attr-defined]


def _batches(context: Context, config: Config) -> Iterator[StepBatch]:
    """Batches of a method's streams from one packed set of generated, natural images."""
    from fastass.bench.input.generated import write
    from fastass.pipelines.datasets.layouts import open_dataset
    from fastass.pipelines.loaders.open_loader import open_loader
    from fastass.pipelines.loaders.spec import StreamSpec
    from fastass.pipelines.packed.dataset import open_packed
    from fastass.pipelines.packed.pack import pack

    size = config.data.source_size
    folder = Path(context.results.out) / "images"
    write(folder / "files", "gta5", 2 if context.tiny else 8)
    packed = folder / f"{size[0]}x{size[1]}"
    pack(open_dataset(folder / "files", "gta5"), packed, size)
    data, spec = open_packed(packed), spec_of(config)
    streams = {"source": StreamSpec(data, config.batch, size)}
    target = config.data.target_size
    if spec.labelled:
        streams["labelled"] = StreamSpec(data, config.batch, target)
    if spec.global_:
        streams["unlabelled"] = StreamSpec(data, config.batch, target, with_labels=False)
    device = str(torch.device(context.device))
    with open_loader("dali", streams, 0, workers=8, device=device) as loader:
        yield from loader.batches()
