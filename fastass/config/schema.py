"""The configuration: one tree of frozen dataclasses = the CLI's flags = the saved YAML.

A field's flag is its path joined by dashes: `steps` → `--steps`, `data.source` → `--data-source`.
Reading and writing live in `fastass.config.text`; the presets in `fastass.config.presets`.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastass.models.config import ModelConfig

Method = Literal["oracle", "source_only", "joint", "ga", "ga+fcsa", "ga+csa"]

# Table 2: the λ_sadv that the paper settled on.
LAMBDA_SADV = {"ga+fcsa": 0.04, "ga+csa": 0.01}


@dataclass(frozen=True, kw_only=True)
class ToyCityConfig:
    """The built-in data set, generated where `data.source` or `data.target` is not given."""

    directory: str = "data/toycity"
    """Where ToyCity is generated, or was."""
    source: int = 400
    """Rendered source images."""
    target: int = 300
    """Camera-like target training images."""
    val: int = 60
    """Camera-like target validation images."""
    seed: int = 0
    """Seed of the generator."""
    shift: float = 1.0
    """How far the target's materials are from the source's, class by class, 0–1."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how it is prepared."""

    source: str | None = None
    """Source data set: a directory, packed or as its owners ship it."""
    source_layout: str = "auto"
    """`gta5`, `synthia`, `cityscapes`, `folder` or `auto`."""
    target: str | None = None
    """Target data set with train and val splits."""
    val: str | None = None
    """Validation set, unpacked: labels at full size (none: the val split of `target`)."""
    target_layout: str = "auto"
    """`gta5`, `synthia`, `cityscapes`, `folder` or `auto`."""
    source_size: tuple[int, int] = (1280, 720)
    """Training size of source images, WxH."""
    target_size: tuple[int, int] = (1024, 512)
    """Training size of target images, WxH."""
    classes: tuple[str, ...] = ()
    """Train on these classes only (empty: all of the table)."""
    report: tuple[str, ...] = ()
    """Also report the mean over these classes."""
    normalize: Literal["bgr", "imagenet"] = "bgr"
    """`bgr`: AdaptSegNet's mean, for its weights; `imagenet`: RGB mean/std, for torchvision's."""
    mirror: bool = True
    """Mirror at random."""
    scale: tuple[float, float] | None = None
    """Random scale, e.g. 1.0,1.5; a crop of the training size is taken from the scaled image."""
    source_resize: tuple[int, int] | None = None
    """Size that `scale` applies to before the crop of `source_size`, WxH (none: `source_size`)."""
    target_resize: tuple[int, int] | None = None
    """The same for target images."""
    jitter: float = 0.0
    """Strength of colour jitter, 0 … 1."""
    blur: float = 0.0
    """Largest sigma of a random blur, pixels."""
    workers: int = 2
    """Decoding workers."""
    loader: Literal["pillow", "dali"] = "pillow"
    """Who decodes and augments."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """A damaged file stops, or is replaced."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The λ of Eq. 9 and 10. Those the paper leaves unstated are AdaptSegNet's."""

    seg: float = 1.0
    """λ_seg."""
    gadv: float = 0.001
    """λ_gadv."""
    sadv: float | None = None
    """λ_sadv (none: Table 2's, 0.04 for FCSA and 0.01 for CSA)."""
    gd: float = 0.5
    """λ_gd."""
    sd: float = 0.5
    """λ_sd."""
    aux_seg: float = 0.1
    """Share of λ_seg for the auxiliary head of a multi-level model."""
    aux_gadv: float = 0.2
    """Share of λ_gadv for the auxiliary head of a multi-level model."""
    gan: Literal["vanilla", "ls"] = "vanilla"
    """Global loss: cross-entropy or least squares."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Section 4.1."""

    width: int = 64
    """Channels of D_g's first layer; the next three double them."""
    hidden: int = 1024
    """Channels between the two layers of D_s."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Section 4.2."""

    lr: float = 2.5e-4
    """Initial rate of the segmentation network."""
    head_lr: float = 10.0
    """Factor on the classifier's rate; AdaptSegNet trains vgg16 with 1."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's method."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    d_lr: float = 1e-4
    """Initial rate of the discriminators (Adam)."""
    d_betas: tuple[float, float] = (0.9, 0.99)
    """Betas of Adam."""
    optimizer_backend: Literal["torch", "foreach", "apex"] = "torch"
    """`torch`: one fused kernel; `foreach`: torch's lists of tensors; `apex`: NVIDIA's, on CUDA."""
    power: float = 0.9
    """Power of the polynomial decay."""
    schedule_steps: int = 0
    """Steps over which the rate decays to 0 (0: --steps)."""
    warmup: int = 0
    """Steps of linear warm-up."""
    scale_lr: Literal["none", "linear", "sqrt"] = "none"
    """All rates times the ratio of the global batch to `base_batch`, or times its square root."""
    base_batch: int = 1
    """Global batch, in images a stream and step, that the rates are meant for."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """Several processes that train together, started by torchrun: docs/multi-node.md."""

    world: int = 1
    """Number of processes; set by torchrun."""
    timeout: float = 600.0
    """Seconds to wait for a rank that does not answer before the run ends."""
    compress: bool = False
    """Exchange gradients in bf16: half the bytes, rounded sums."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where a run computes, and how: it changes the speed and the rounding, not the method."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    kernels: Literal["auto", "reference", "native", "triton"] = "auto"
    """Implementation of the operators; `auto`: Triton on a GPU, native C++ on a CPU."""
    amp: bool = False
    """Mixed precision: bf16 where the device has it, else fp16 on CUDA."""
    tf32: bool | None = None
    """Allow TF32 for fp32 matrix products and convolutions on CUDA. Unset: PyTorch's default
    (convolutions only)."""
    compile: bool = False
    """Compile the step with `torch.compile`."""
    compile_mode: Literal["default", "max-autotune", "reduce-overhead"] = "default"
    """Mode of `torch.compile`; `reduce-overhead` runs CUDA graphs, `max-autotune` also tries other
    kernels."""
    tune_allocator: bool = True
    """On a CPU, malloc keeps freed blocks: fewer page faults, more memory held."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run."""

    preset: str = ""
    """Name of the preset that this configuration started from."""
    method: Method = "ga+csa"
    """What is trained: see docs/method.md."""
    labelled: int = 0
    """Number of labelled target images."""
    labelled_seed: int = 0
    """Seed that selects them."""
    labelled_list: str | None = None
    """File with their names, one a line, instead of a number."""
    steps: int = 150_000
    """Optimizer steps."""
    start_steps: int = 0
    """Source-only steps before them, where no pretrained weights exist."""
    batch: int = 1
    """Images per stream and device."""
    accumulate: int = 1
    """Batches per optimizer step."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""
    init: str | None = None
    """Weights to start from: .pth, .safetensors or a checkpoint."""
    allow_mismatch: tuple[str, ...] = ()
    """MethodSpec that --init may leave at random."""
    ema: float = 0.0
    """Decay of a running average of G's weights, e.g. 0.999, evaluated instead of them (0: off)."""
    backward: Literal["fused", "streamed", "concurrent"] = "fused"
    """`streamed`: one backward a stream; peak memory is the largest stream, not the sum.
    `concurrent`: source and target side by side, for small networks on a CPU; else as `fused`."""
    eval_every: int = 2000
    """Steps between evaluations on target val (0: only at the end)."""
    save_every: int = 1000
    """Steps between checkpoints."""
    save_in_background: bool = True
    """Training goes on while a checkpoint is written."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Also log to these services, e.g. tensorboard,wandb; each needs its own package."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    toycity: ToyCityConfig = field(default_factory=ToyCityConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def resolved(self) -> "Config":
        """With the values that depend on others filled in: λ_sadv of the method, and whether sums
        are computed again, which is for the memory that a streamed backward is for."""
        loss, model = self.loss, self.model
        if loss.sadv is None:
            loss = replace(loss, sadv=LAMBDA_SADV.get(self.method, 0.0))
        if model.recompute_sums is None:
            lean = self.backward == "streamed" and not (
                self.runtime.compile or model.checkpoint_activations
            )
            model = replace(model, recompute_sums=lean and model.has_cheap_sums)
        return replace(self, loss=loss, model=model)

    def with_runtime(self, **values: Any) -> "Config":
        """With other values of `runtime`."""
        return replace(self, runtime=replace(self.runtime, **values))

    @property
    def global_batch(self) -> int:
        """Images per stream and optimizer step, over all ranks and accumulated batches."""
        return self.batch * self.accumulate * self.distributed.world

    @property
    def total_steps(self) -> int:
        """Steps of the source-only start and of the method together."""
        return self.start_steps + self.steps
