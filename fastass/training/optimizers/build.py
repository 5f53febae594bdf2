"""Optimizers and their schedule, section 4.2: SGD for G, Adam for the discriminators.

LARS, LAMB and AdamW are for G alone, in large batches.
"""

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
from fastass.training.optimizers.large_batch import LAMB, LARS
from fastass.training.optimizers.muon import Muon
from fastass.training.optimizers.repeated import RepeatedSGD, by_updates
from fastass.training.optimizers.torch_eager import SGD, Adam, AdamW


def generator_optimizer(generator: DeepLab, optim: OptimConfig, factor: float) -> Optimizer:
    """The optimizer of G; the classifier's learning rate is `head_lr` times higher.

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
    if optim.optimizer != "sgd" or not optim.decay_norms:
        groups = [part for group in groups for part in _by_shape(group, optim)]
    if optim.repeated_updates:
        groups = by_updates(groups, generator.backbone)
    match optim.optimizer:
        case "sgd":
            return _sgd(groups, optim)
        case "lars":
            return LARS(
                groups, optim.lr, optim.momentum, trust=optim.trust, nesterov=optim.nesterov
            )
        case "lamb":
            return LAMB(groups, optim.lr, betas=optim.betas)
        case "muon":
            return Muon(groups, optim.lr, optim.momentum, optim.betas)
        case "adamw":
            return AdamW(groups, optim.lr, betas=optim.betas, **_implementation(optim))


def _by_shape(group: dict[str, Any], optim: OptimConfig) -> list[dict[str, Any]]:
    """Weights, which are decayed and adapted, and vectors, which are not: biases, scale, shift."""
    weights = [p for p in group["params"] if p.dim() > 1]
    vectors = [p for p in group["params"] if p.dim() <= 1]
    rate = group["base_lr"] * (1.0 if optim.optimizer == "sgd" else optim.vector_lr)
    parts = [
        {**group, "params": weights, "weight_decay": optim.weight_decay, "adapts": True},
        {**group, "params": vectors, "weight_decay": 0.0, "adapts": False, "base_lr": rate},
    ]
    return [part for part in parts if part["params"]]


def _sgd(groups: list[dict[str, Any]], optim: OptimConfig) -> Optimizer:
    values: dict[str, Any] = {
        "lr": optim.lr,
        "momentum": optim.momentum,
        "nesterov": optim.nesterov,
        "weight_decay": optim.weight_decay,
    }
    if optim.optimizer_backend == "apex":
        return apex.sgd(groups, **values)
    kind = RepeatedSGD if optim.repeated_updates else SGD
    return kind(groups, **values, **_implementation(optim))


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


def batch_factor(optim: OptimConfig, global_batch: int, *, discriminators: bool = False) -> float:
    """The factor on every base rate for a global batch other than `base_batch`.

    Linear: Goyal et al. 2017, section 2.1. Square root: Krizhevsky 2014. By default the
    discriminators have the same factor, which keeps the balance of G and them.
    """
    rule: str = optim.scale_lr
    if discriminators and optim.scale_lr_discriminators != "same":
        rule = optim.scale_lr_discriminators
    ratio = global_batch / optim.base_batch
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[rule]


def describe_rates(optim: OptimConfig, global_batch: int) -> str:
    """The factors on the learning rates, for the heading of a run; empty without one."""
    own = optim.scale_lr_discriminators
    if not optim.scales:
        return ""
    line = f" · learning rates × {batch_factor(optim, global_batch):.3g} ({optim.scale_lr}"
    if own != "same":
        factor = batch_factor(optim, global_batch, discriminators=True)
        line += f"; discriminators × {factor:.3g}, {own}"
    return f"{line}, global batch {global_batch}, base {optim.base_batch})"


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


def describe_optimizers(optim: OptimConfig, device: torch.device) -> str:
    """Which optimizers run. UserError for apex where it can't run, or for what it does not have."""
    backend = optim.optimizer_backend
    if backend == "apex":
        if optim.optimizer != "sgd":
            raise UserError(
                f"optim.optimizer_backend: apex is used for sgd and Adam, not for "
                f"{optim.optimizer}; use torch"
            )
        reason = apex.unavailable()
        if reason is None and device.type != "cuda":
            reason = f"its optimizers need CUDA, and the device is {device}"
        if reason is not None:
            raise UserError(f"optim.optimizer_backend: {reason}; or use torch")
    name = {"torch": "torch fused", "foreach": "torch foreach", "apex": "apex"}[backend]
    return name if optim.optimizer == "sgd" else f"{optim.optimizer}, {name}"
