"""Optimizers and their schedule, section 4.2: SGD for G, Adam for the discriminators."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.models.deeplab import DeepLab
from fastass.training.optimizers import apex
from fastass.training.optimizers.torch_eager import SGD, Adam


def generator_optimizer(generator: DeepLab, config: Config) -> Optimizer:
    """SGD with Nesterov momentum; the classifier's group learns `head_lr` times faster.

    UserError where the backend asked for is not there.
    """
    o, factor = config.optim, batch_factor(config)
    groups = [
        {"params": group["params"], "base_lr": o.lr * scale * factor}
        for group, scale in zip(generator.parameter_groups(), (1.0, o.head_lr), strict=True)
    ]
    values: dict[str, Any] = {
        "lr": o.lr,
        "momentum": o.momentum,
        "nesterov": o.nesterov,
        "weight_decay": o.weight_decay,
    }
    if o.optimizer_backend == "apex":
        return apex.sgd(groups, **values)
    return SGD(groups, **values, **_implementation(config))


def discriminator_optimizer(discriminator: nn.Module, config: Config) -> Optimizer:
    """Adam; weight decay is the segmentation network's alone.

    UserError where the backend asked for is not there.
    """
    o = config.optim
    rate = o.d_lr * batch_factor(config)
    groups = [{"params": list(discriminator.parameters()), "lr": rate, "base_lr": rate}]
    values: dict[str, Any] = {"lr": rate, "betas": o.d_betas}
    if o.optimizer_backend == "apex":
        return apex.adam(groups, **values)
    return Adam(groups, **values, **_implementation(config))


def _implementation(config: Config) -> dict[str, Any]:
    """Torch has fused kernels of both optimizers for a CPU and for CUDA."""
    fused = config.optim.optimizer_backend == "torch"
    return {"fused": fused} if fused else {"foreach": True}


def batch_factor(config: Config) -> float:
    """The factor on every base rate for a global batch other than `base_batch`.

    Linear: Goyal et al. 2017, section 2.1. Square root: Krizhevsky 2014. One factor for
    SGD and Adam keeps the balance of G and its discriminators.
    """
    ratio = config.global_batch / config.optim.base_batch
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.optim.scale_lr]


def describe_rates(config: Config) -> str:
    """For the line that opens a run; empty where the rates are used as they are."""
    o = config.optim
    if o.scale_lr == "none":
        return ""
    return (
        f" · rates × {batch_factor(config):.3g} ({o.scale_lr}, "
        f"global batch {config.global_batch}, base {o.base_batch})"
    )


def decay(step: int, config: Config) -> float:
    """The factor on every base rate at optimizer step `step`: (1 − t)^power after the warm-up.

    The source-only start and the method that follows each run their own decay, so that the start
    is a finished model by itself.
    """
    o = config.optim
    if step < config.start_steps:
        local, total = step, config.start_steps
    else:
        local, total = step - config.start_steps, o.schedule_steps or config.steps
    rise = min(1.0, (local + 1) / o.warmup) if o.warmup else 1.0
    return rise * max(0.0, 1 - local / total) ** o.power


def set_rates(optimizers: list[Optimizer], factor: float) -> None:
    """Set every group's rate to `factor` times its base rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def describe_optimizers(config: Config, device: torch.device) -> str:
    """Whose implementation of SGD and Adam runs. UserError for apex where it can't."""
    backend = config.optim.optimizer_backend
    if backend == "apex":
        reason = apex.unavailable()
        if reason is None and device.type != "cuda":
            reason = f"its optimizers need CUDA, the device is {device}"
        if reason is not None:
            raise UserError(f"optim.optimizer_backend: {reason}; or use torch")
    return {"torch": "torch fused", "foreach": "torch foreach", "apex": "apex"}[backend]
