"""Optimizers and their schedule, section 4.2: SGD for G, Adam for the discriminators."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fastass.config.schema import OptimConfig
from fastass.errors import UserError
from fastass.models.deeplab import DeepLab
from fastass.training.optimizers import apex
from fastass.training.optimizers.torch_eager import SGD, Adam


def generator_optimizer(generator: DeepLab, optim: OptimConfig, factor: float) -> Optimizer:
    """SGD with Nesterov momentum; the classifier's learning rate is `head_lr` times higher.

    With `layer_decay` each layer of the backbone has a rate of its own, lower towards the images.

    factor: on every learning rate, see `batch_factor`. UserError where the backend asked for is
    not available.
    """
    backbone, classifiers = generator.parameter_groups()
    scaled = [(classifiers["params"], optim.head_lr)]
    if optim.layer_decay == 1:
        scaled.insert(0, (backbone["params"], 1.0))
    else:  # the last layer first: the rate that is logged is the first group's
        layers = reversed(generator.backbone.layers())
        scaled[:0] = [(layer, optim.layer_decay**i) for i, layer in enumerate(layers)]
    groups = [{"params": p, "base_lr": optim.lr * scale * factor} for p, scale in scaled]
    values: dict[str, Any] = {
        "lr": optim.lr,
        "momentum": optim.momentum,
        "nesterov": optim.nesterov,
        "weight_decay": optim.weight_decay,
    }
    if optim.optimizer_backend == "apex":
        return apex.sgd(groups, **values)
    return SGD(groups, **values, **_implementation(optim))


def discriminator_optimizer(
    discriminator: nn.Module, optim: OptimConfig, factor: float
) -> Optimizer:
    """Adam without weight decay, which the paper gives to the segmentation network alone.

    factor: on every learning rate, see `batch_factor`. UserError where the backend asked for is
    not available.
    """
    rate = optim.d_lr * factor
    groups = [{"params": list(discriminator.parameters()), "lr": rate, "base_lr": rate}]
    values: dict[str, Any] = {"lr": rate, "betas": optim.d_betas}
    if optim.optimizer_backend == "apex":
        return apex.adam(groups, **values)
    return Adam(groups, **values, **_implementation(optim))


def _implementation(optim: OptimConfig) -> dict[str, Any]:
    """PyTorch has fused kernels of both optimizers for a CPU and for CUDA."""
    return {"fused": True} if optim.optimizer_backend == "torch" else {"foreach": True}


def batch_factor(optim: OptimConfig, global_batch: int) -> float:
    """The factor on every base rate for a global batch other than `base_batch`.

    Linear: Goyal et al. 2017, section 2.1. Square root: Krizhevsky 2014. One factor for
    SGD and Adam keeps the balance of G and its discriminators.
    """
    ratio = global_batch / optim.base_batch
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[optim.scale_lr]


def describe_rates(optim: OptimConfig, global_batch: int) -> str:
    """The factor on the learning rates, for the heading of a run; empty without one."""
    if optim.scale_lr == "none":
        return ""
    return (
        f" · learning rates × {batch_factor(optim, global_batch):.3g} ({optim.scale_lr}, "
        f"global batch {global_batch}, base {optim.base_batch})"
    )


def decay(step: int, optim: OptimConfig, *, start_steps: int, steps: int) -> float:
    """The factor on every base rate at optimizer step `step`: (1 − t)^power after the warm-up.

    The source-only start and the method that follows it each run their own decay, so that the
    start is a finished model by itself. start_steps, steps: their numbers of steps.
    """
    if step < start_steps:
        done, total = step, start_steps
    else:
        done, total = step - start_steps, optim.schedule_steps or steps
    warmup = min(1.0, (done + 1) / optim.warmup) if optim.warmup else 1.0
    return float(warmup * max(0.0, 1 - done / total) ** optim.power)


def set_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times its base rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor


def describe_optimizers(backend: str, device: torch.device) -> str:
    """Which implementation of SGD and Adam runs. UserError for apex where it can't run."""
    if backend == "apex":
        reason = apex.unavailable()
        if reason is None and device.type != "cuda":
            reason = f"its optimizers need CUDA, and the device is {device}"
        if reason is not None:
            raise UserError(f"optim.optimizer_backend: {reason}; or use torch")
    return {"torch": "torch fused", "foreach": "torch foreach", "apex": "apex"}[backend]
