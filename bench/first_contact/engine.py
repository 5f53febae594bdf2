"""Stages that time training steps: 5 that don't count, then 15, and none waits for the GPU."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastass import kernels
from fastass.bench.first_contact.stages import Context
from fastass.bench.meters import peak_bytes, per_call, reset_peak, synchronize
from fastass.bench.model import rates, roofline, trace
from fastass.bench.model.flops import of_operators
from fastass.bench.step.compare import images_per_step
from fastass.bench.step.reference import ReferencePath
from fastass.config.presets import preset
from fastass.config.schema import Config, DataConfig, DiscriminatorConfig
from fastass.errors import UserError
from fastass.method.adaptation import MethodSpec, method_spec
from fastass.pipelines.errors import one_line
from fastass.pipelines.loaders.batch import StepBatch
from fastass.runtime.device import setup_runtime
from fastass.training.memory.random_batch import random_batch
from fastass.training.optimizers import apex
from fastass.training.step import TrainStep, build

PRESET = "gta5_to_cityscapes_csa_500"
WARMUP, STEPS = 5, 15
TINY = (1, 2)  # the same with small sizes, where only the way is tried


def configured(context: Context, norm: str, batch: int, **more: Any) -> Config:
    """The paper's networks and sizes in bf16; tiny ones where they were asked for."""
    config = replace(preset(PRESET), batch=batch, **more)
    model = replace(config.model, norm=norm)  # type: ignore[arg-type]
    if context.tiny:
        model = replace(model, backbone="tiny", num_classes=19)
        data = DataConfig(source_size=(64, 48), target_size=(64, 48))
        config = replace(config, data=data, discriminator=DiscriminatorConfig(width=4, hidden=16))
    amp = not context.device.startswith("cpu")
    return replace(config, model=model).with_runtime(device=context.device, amp=amp).resolved()


def spec_of(config: Config) -> MethodSpec:
    return method_spec(config.method, labelled=max(config.labelled, 1))


def time_steps(
    context: Context, config: Config, step: Callable[[], object], **about: Any
) -> dict[str, Any]:
    """Write ms per step, ms in which the CPU launches it, images/s and peak memory → these."""
    device = torch.device(context.device)
    begin = time.perf_counter()
    warmup, steps = TINY if context.tiny else (WARMUP, STEPS)
    for _ in range(warmup):
        step()
    synchronize(device)
    warm = time.perf_counter() - begin
    reset_peak(device)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    launched = time.perf_counter() - begin
    synchronize(device)
    seconds = (time.perf_counter() - begin) / steps
    values = {
        "norm": config.model.norm,
        "batch": config.batch,
        **about,
        "ms": 1e3 * seconds,
        "launch_ms": 1e3 * launched / steps,
        "images_per_second": images_per_step(config) / seconds,
        "peak_gb": peak_bytes(device) / 1e9,
        "first_steps_seconds": warm,
    }
    context.results.write(what="step", **values)
    return values


def of_engine(context: Context, config: Config, **about: Any) -> None:
    """Build fastass's step under `config` and time it; what fails is written and goes no further.

    FLOPs are counted in one more step: `tflop`, and `tflop_per_second` by the time measured.
    """
    try:
        runtime = setup_runtime(config.runtime)
        engine = TrainStep(build(config, spec_of(config)), config, runtime)
        batch = random_batch(config, spec_of(config), runtime.device, channels_last=True)
        values = time_steps(context, config, lambda: engine.step([batch], adapt=True), **about)
        if config.runtime.compile or config.runtime.cuda_graph:
            return  # the same FLOPs as the eager step's
        counter = FlopCounterMode(display=False, custom_mapping=of_operators())
        engine.concurrent_backward = None
        with counter:
            engine.step([batch], adapt=True)
        flops = counter.get_total_flops()
        context.results.write(
            what="flops",
            norm=config.model.norm,
            batch=config.batch,
            tflop=flops / 1e12,
            tflop_per_second=flops / values["ms"] / 1e9,
            modelled_ms=modelled(config),
        )
    except (RuntimeError, UserError) as error:  # out of memory, or not available here
        reason = one_line(error, 500)
        context.results.write(
            what="failed", norm=config.model.norm, batch=config.batch, **about, reason=reason
        )


def modelled(config: Config) -> float | None:
    """Milliseconds by the roofline model (`fastass bench model`); None for a GPU without rates."""
    if not torch.cuda.is_available() or config.model.backbone != "resnet101":
        return None
    name = torch.cuda.get_device_name()
    gpu = next((known for known in rates.DATA_SHEET if known in name), None)
    if gpu is None:
        return None
    kept = trace.read(config.method, config.model.norm, "eager")
    return 1e3 * roofline.total(roofline.parts(kept, rates.gpu(gpu), config.batch)).seconds


def free() -> None:
    """One model at a time: give the last one's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def eager(context: Context) -> None:
    for norm, batch in (("frozen", 1), ("frozen", 8), ("batch", 8), ("batch", 1), ("frozen", 4)):
        of_engine(context, configured(context, norm, batch), mode="eager")
        free()


def fused(context: Context) -> None:
    """Convolutions with their epilogue in one kernel, chosen by timing; fastass's batch norm."""
    for norm, batch in (("frozen", 8), ("batch", 8), ("frozen", 1)):
        config = configured(context, norm, batch)
        switches: dict[str, Any] = {"fused_convolutions": "timed"}
        if norm == "batch":
            switches["fused_batch_norm"] = True
        of_engine(context, config.with_runtime(**switches), **switches)
        context.results.write(what="chosen", norm=norm, batch=batch, line=kernels.describe_fused())
        free()


def cudnn(context: Context) -> None:
    """cuDNN tries its algorithms for every new shape and keeps the fastest."""
    for batch in (8, 1):
        for on in (False, True):
            torch.backends.cudnn.benchmark = on
            of_engine(context, configured(context, "frozen", batch), cudnn_benchmark=on)
            free()


def compiled(context: Context) -> None:
    config = configured(context, "frozen", 8).with_runtime(compile=True)
    of_engine(context, config, mode="compile default")


def reduce_overhead(context: Context) -> None:
    config = configured(context, "frozen", 1)
    config = config.with_runtime(compile=True, compile_mode="reduce-overhead")
    of_engine(context, config, mode="compile reduce-overhead")


def reference(context: Context) -> None:
    """The AdaptSegNet baseline, fp32 and NCHW, alone in the memory."""
    for batch in (1, 4):
        config = configured(context, "batch", batch)
        config = config.with_runtime(amp=False, kernels="reference")
        runtime = setup_runtime(config.runtime)
        try:
            path = ReferencePath(build(config, spec_of(config)), config, runtime.device)
            images: StepBatch = random_batch(config, spec_of(config), runtime.device, False)
            time_steps(context, config, partial(path.step, images), mode="reference")
        except RuntimeError as error:
            context.results.write(what="failed", batch=batch, mode="reference", reason=str(error))
        free()


def optimizers(context: Context) -> None:
    """ms of all optimizers of a step by each implementation, or why one is not here."""
    for backend in ("torch", "foreach", "apex"):
        reason = apex.unavailable() if backend == "apex" else None
        if reason is None and backend == "apex" and context.device.startswith("cpu"):
            reason = "apex's optimizers need CUDA"
        if reason is not None:
            context.results.write(what="optimizers", backend=backend, skipped=reason)
            continue
        config = configured(context, "frozen", 1)
        config = replace(config, optim=replace(config.optim, optimizer_backend=backend))
        runtime = setup_runtime(config.runtime)
        engine = TrainStep(build(config, spec_of(config)), config, runtime)
        for parameter in engine.module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 1e-3)

        def update(engine: TrainStep = engine) -> None:
            for optimizer in engine.optimizers.values():
                optimizer.step()

        for _ in range(3):
            update()
        synchronize(runtime.device)
        ms = 1e3 * per_call(update, runtime.device)
        context.results.write(what="optimizers", backend=backend, ms=ms)
        free()
