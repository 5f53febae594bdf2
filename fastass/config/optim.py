"""Optimizers and learning rates in the configuration."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastass.config.ranges import Below1, Count, Factor, Rate, Steps
from fastass.models.number_range import Range


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizers and learning rates, section 4.2."""

    optimizer: Literal["sgd", "lars", "lamb", "muon", "adamw"] = "sgd"
    """Optimizer of the segmentation network. `lars`, `lamb` and `muon` move each layer by a share
    of its norm, for large batches; they need an `lr` of their own, as `adamw` does."""
    lr: Rate = 2.5e-4
    """Initial learning rate of the segmentation network."""
    head_lr: Factor = 10.0
    """Factor on the learning rate for the classifier. Use 1 for vgg16, as the AdaptSegNet baseline
    does."""
    layer_decay: Annotated[float, Range(0, 1, open_low=True)] = 1.0
    """Factor on the learning rate from each layer of the backbone to the one before it, e.g. 0.9.
    Use it to fine-tune a pretrained transformer (1: one rate for the whole backbone)."""
    vector_lr: Factor = 1.0
    """Factor on the learning rate of biases, and of scale and shift of the norms, with LARS, LAMB,
    Muon and AdamW, which do not adapt it to their norm. Lower it where `lr` is high, e.g. 0.1
    with Muon at 0.1."""
    momentum: Below1 = 0.9
    """Momentum of SGD, LARS and Muon."""
    nesterov: bool = True
    """Use Nesterov momentum, with SGD and LARS."""
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    """The two betas of LAMB, of AdamW, and of Muon's biases and norms."""
    trust: Rate = 1e-3
    """Trust coefficient of LARS: the share of its norm by which a layer moves at learning rate
    1."""
    weight_decay: Factor = 5e-4
    """Weight decay of the segmentation network. The discriminators have none."""
    repeated_updates: bool = False
    """Update a weight as often per step as the optimizer of the AdaptSegNet baseline lists it: the
    convolutions of a ResNet's blocks three times, those of the shortcuts four times. Only to
    reproduce that code, with SGD."""
    decay_norms: bool = True
    """Also decay biases, and scale and shift of the norms, with SGD. The other
    optimizers never do."""
    d_lr: Rate = 1e-4
    """Initial learning rate of the discriminators (Adam)."""
    d_betas: tuple[Below1, Below1] = (0.9, 0.99)
    """The two betas of the discriminators' Adam."""
    optimizer_backend: Literal["torch", "foreach", "apex"] = "torch"
    """Implementation of SGD and Adam: `torch`, PyTorch's fused kernels; `foreach`, PyTorch's
    multi-tensor operations; `apex`, NVIDIA's kernels for CUDA, an optional package. LARS and LAMB
    always use multi-tensor operations."""
    power: Annotated[float, Range(0, 100)] = 0.9
    """Power of the polynomial decay of the learning rates."""
    schedule_steps: Steps = 0
    """Steps over which the learning rates decay to 0. Set it above --steps to stop earlier on the
    curve, as the paper's runs do (0: --steps)."""
    warmup: Steps = 0
    """Steps over which the learning rates rise linearly at the beginning (0: no warm-up)."""
    scale_lr: Literal["none", "linear", "sqrt"] = "none"
    """Scale the learning rates with the global batch: by its ratio to `base_batch` (`linear`), or
    by the square root of that (`sqrt`). Use it with a larger batch or several GPUs."""
    scale_lr_discriminators: Literal["same", "none", "linear", "sqrt"] = "same"
    """Scale the discriminators' learning rate by a rule of its own. `same`: that of `scale_lr`."""
    base_batch: Count = 1
    """Global batch that the learning rates were chosen for, in images per stream and step; only
    `scale_lr` and `scale_lr_discriminators` use it."""

    @property
    def scales(self) -> bool:
        """Whether a learning rate depends on the global batch."""
        return self.scale_lr != "none" or self.scale_lr_discriminators not in ("same", "none")
