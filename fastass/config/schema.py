"""The configuration: one tree of frozen dataclasses = the CLI's flags = the saved YAML.

A field's flag is its path joined by dashes: `steps` → `--steps`, `data.source` → `--data-source`.
Its type says what is permitted: a `Range` of numbers, or the words of a Literal.
Reading and writing live in `fastass.config.text`; the presets in `fastass.config.presets`.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from fastass.config.optim import OptimConfig as OptimConfig
from fastass.config.ranges import Below1 as Below1
from fastass.config.ranges import Count as Count
from fastass.config.ranges import Factor as Factor
from fastass.config.ranges import Images as Images
from fastass.config.ranges import Rate as Rate
from fastass.config.ranges import ScaleFactor as ScaleFactor
from fastass.config.ranges import Seed as Seed
from fastass.config.ranges import Side as Side
from fastass.config.ranges import Size as Size
from fastass.config.ranges import Steps as Steps
from fastass.models.config import ModelConfig
from fastass.models.number_range import AUTO as AUTO
from fastass.models.number_range import Range
from fastass.pipelines.datasets.layouts import LayoutName
from fastass.pipelines.loaders.normalization import Normalization, with_channels

Layout = Annotated[str, LayoutName()]

Normalize = Literal["bgr", "imagenet"]
Method = Literal["oracle", "source_only", "joint", "ga", "ga+fcsa", "ga+csa"]

NormStatistics = Literal["mixed", "domain"]
STATISTICS = {"domain": "the target's", "mixed": "mixed"}  # these, in words
# Values of `init` that are no file and no run.
NAMED_WEIGHTS = ("none", "imagenet", "pretrained")

# The λ_sadv that the paper chose in Table 2.
LAMBDA_SADV = {"ga+fcsa": 0.04, "ga+csa": 0.01}


@dataclass(frozen=True, kw_only=True)
class ToyCityConfig:
    """The built-in data set, generated if `data.source` or `data.target` is not given."""

    directory: str = "data/toycity"
    """Directory of ToyCity; it is generated there if it does not exist."""
    source: Images = 400
    """Number of rendered source images."""
    target: Images = 300
    """Number of camera-like target images for training."""
    val: Images = 60
    """Number of camera-like target images for validation."""
    seed: Seed = 0
    """Seed of the generator. Change it for another city."""
    shift: Annotated[float, Range(0, 1)] = 1.0
    """How much the materials of the target differ from those of the source, from 0 (not at all)
    to 1. Lower it for an easier adaptation."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how it is prepared."""

    source: str | None = None
    """Source data set: a directory, packed by `fastass pack` or as its owners ship it."""
    source_layout: Layout = "auto"
    """Layout of the source; auto recognises it."""
    target: str | None = None
    """Target data set, with a train and a val split; packed or as its owners ship it."""
    val: str | None = None
    """Validation set, not packed, because labels are read at full size. Unset: the val split of
    the target. Give it if the target is packed."""
    target_layout: Layout = "auto"
    """Layout of the target; auto recognises it."""
    source_size: Size = (1280, 720)
    """Size at which source images are trained, WxH. Lower it to save memory and time."""
    target_size: Size = (1024, 512)
    """Size at which target images are trained and evaluated, WxH. Lower it to save memory and
    time."""
    classes: tuple[str, ...] = ()
    """Train only these classes, by name, e.g. road,car,person. Unset: all classes of the data
    sets."""
    report: tuple[str, ...] = ()
    """Also report the mIoU over these classes, e.g. the 13 that SYNTHIA results are compared on."""
    normalize: Normalize = "bgr"
    """Normalisation of the images; it must match the weights of --init. `bgr`: subtract the mean,
    for weights of the AdaptSegNet baseline. `imagenet`: RGB mean and standard deviation, for
    torchvision's weights."""
    extra_mean: tuple[Annotated[float, Range(0, 255)], ...] = ()
    """Mean of each channel after red, green and blue, in levels from 0 to 255, e.g. 90,60. Unset:
    127.5. For --channels 4 and more."""
    extra_std: tuple[Annotated[float, Range(0, 255, open_low=True)], ...] = ()
    """Standard deviation of each channel after red, green and blue, in levels. Unset: that of the
    colours (1 with `bgr`, 57.4 with `imagenet`)."""
    mirror: bool = True
    """Mirror images at random. Turn it off if left and right matter in your data."""
    scale: tuple[ScaleFactor, ScaleFactor] | None = None
    """Range of a random scale, e.g. 0.5,2.0; a crop of the training size is taken from the scaled
    image. A scaled image that is smaller than the crop is padded; padding is ignored in the losses
    of labelled images. Unset: no random scale."""
    source_resize: Size | None = None
    """Size of source images that `scale` multiplies, WxH, before the crop of `source_size`. Unset:
    `source_size`."""
    target_resize: Size | None = None
    """Size of target images that `scale` multiplies, WxH, before the crop of `target_size`. Unset:
    `target_size`."""
    jitter: Below1 = 0.0
    """Strength of random colour jitter, from 0 (off) to below 1."""
    blur: Annotated[float, Range(0, 10)] = 0.0
    """Largest sigma of a random Gaussian blur, in pixels (0: off)."""
    rare_class: Rate | None = None
    """Temperature T of rare-class sampling: draw images with rare classes more often, as DAFormer
    does. 0.01 is strong, 1 is weak. Unset: each image once per epoch. Use it if rare classes have a
    low IoU."""
    rare_class_on: Literal["source", "labelled", "both"] = "source"
    """Images that `rare_class` draws: source images, labelled target images, or both."""
    workers: Annotated[int, Range(0, 1024)] = 2
    """Threads that decode and augment images. Raise it if a run reports a long data wait and cores
    are idle."""
    loader: Literal["pillow", "dali"] = "pillow"
    """Backend that decodes and augments images: pillow or dali. DALI is an optional package; on a
    GPU it decodes packed JPEGs there."""
    on_bad_sample: Literal["stop", "skip"] = "stop"
    """What to do with a damaged file: stop the run, or skip it and use another sample."""

    def normalization(self, channels: int) -> Normalization:
        """Of images with so many channels. DataError for a wrong number of values."""
        return with_channels(self.normalize, channels, self.extra_mean, self.extra_std)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The λ of Eq. 9 and 10. The paper does not state all of them; the others are AdaptSegNet's."""

    seg: Factor = 1.0
    """λ_seg, the weight of the segmentation loss (Eq. 1)."""
    gadv: Factor = 0.001
    """λ_gadv, the weight of the global adversarial loss (Eq. 2). Raise it for a stronger global
    alignment; too much makes training unstable."""
    sadv: Factor | None = None
    """λ_sadv, the weight of the semantic adversarial loss (Eq. 5, 7). Unset: the paper's choice in
    Table 2, 0.04 for FCSA and 0.01 for CSA."""
    gd: Factor = 0.5
    """λ_gd, the weight of the global discriminator's loss (Eq. 3)."""
    sd: Factor = 0.5
    """λ_sd, the weight of the semantic discriminator's loss (Eq. 6, 8)."""
    mix: Factor = 2.0
    """λ_mix, the weight of the loss of mixed images (`--mix`)."""
    aux_seg: Factor = 0.1
    """Factor on λ_seg for the auxiliary head of a multi-level model."""
    aux_gadv: Factor = 0.2
    """Factor on λ_gadv for the auxiliary head of a multi-level model."""
    gan: Literal["vanilla", "ls"] = "vanilla"
    """Form of the global losses: `vanilla` cross-entropy, or `ls`, least squares."""
    push: Literal["source", "target", "both"] = "source"
    """Domain whose score maps L_gadv pushes towards the other. `source`: Eq. 2 of the paper.
    `target`: the AdaptSegNet baseline, whose unlabelled images then have gradients. `both`: the sum
    of the two."""
    label_grid: Literal["nearest", "aligned"] = "nearest"
    """Label that a feature pixel takes in the semantic module. `nearest`: that of plain nearest
    downsampling. `aligned`: the one at the place where the classifier's upsampling with aligned
    corners puts the pixel."""


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """Self-training with `--mix`: a teacher's labels, and pieces of labelled images pasted over
    them."""

    paste: Literal["both", "source", "labelled"] = "both"
    """Images whose pieces are pasted onto unlabelled ones: `source`, `labelled` (target), or
    `both`, the target's over the source's. Use `labelled` if the source looks unlike the target."""
    confidence: Annotated[float, Range(0, 1)] = 0.8
    """Probability above which the teacher is sure of a pixel. The share of such pixels in an image
    is the weight of its pixels that are not pasted."""
    decay: Below1 = 0.99
    """Decay of the teacher's running average of the weights. Raise it for long runs."""
    color_jitter: Below1 = 0.25
    """Strength of the colour jitter of mixed images, from 0 (off) to below 1."""
    blur_sigma: Annotated[float, Range(0, 10)] = 1.0
    """Largest sigma of the Gaussian blur of every other mixed image, in pixels (0: off)."""
    zoom: Annotated[float, Range(1, 8)] = 2.0
    """Largest factor by which a random crop of the mixed image is magnified (1: off)."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminators, section 4.1."""

    width: Annotated[int, Range(1, 65536)] = 64
    """Channels of the first layer of D_g; each of the next three layers has twice as many."""
    hidden: Annotated[int, Range(1, 65536)] = 1024
    """Channels between the two layers of D_s."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """Training in several processes, which torchrun starts: docs/multi-node.md."""

    world: Count = 1
    """Number of processes; set by torchrun."""
    timeout: Annotated[float, Range(1, 10**6)] = 600.0
    """Seconds to wait for a rank that does not answer before the run ends. Raise it if a rank may
    be slow, for example while it generates data."""
    compress: bool = False
    """Exchange gradients in bf16: half the traffic, but rounded sums. Use it on a slow network."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where and how a run computes. It changes speed and rounding, not the method."""

    device: str = "auto"
    """Device: cpu, cuda or cuda:N; auto is CUDA if there is a GPU."""
    kernels: Literal["auto", "reference", "native", "triton"] = "auto"
    """Implementation of fastass's operators: `reference` is plain PyTorch, `native` C++ for a CPU,
    `triton` for a GPU. `auto`: triton on a GPU, native on a CPU."""
    amp: bool = False
    """Mixed precision: bf16 if the device has it, else fp16 on CUDA. Use it on a GPU to save time
    and memory."""
    tf32: bool | None = None
    """Allow TF32 for fp32 matrix products and convolutions on CUDA. Unset: PyTorch's default
    (convolutions only)."""
    compile: bool = False
    """Compile the networks' forward and backward with `torch.compile`. Takes minutes at the
    start."""
    compile_mode: Literal["default", "max-autotune", "reduce-overhead"] = "default"
    """Mode of `torch.compile`: `reduce-overhead` uses CUDA graphs, `max-autotune` also times other
    kernels."""
    cuda_graph: bool = False
    """Record the whole training step as one CUDA graph, which starts with one launch instead of
    thousands. Use it on a GPU with small batches; it keeps a step's memory between the steps."""
    cudnn_benchmark: bool = True
    """Let cuDNN time its convolution algorithms for each size of image in the first steps of
    training on CUDA, and keep the fastest. Turn it off if images have many sizes, or to choose
    the same algorithms in every run."""
    fused_convolutions: Literal["off", "timed", "on"] = "off"
    """Run convolutions and the bias, sum and ReLU behind them as one kernel, on CUDA with mixed
    precision. `timed`: time each form once for each size in the first step, and keep the fastest.
    `on`: always the fused one."""
    fused_batch_norm: bool = False
    """Run training batch norms and the sum and ReLU behind them in fastass's kernels on CUDA, in
    place of PyTorch's. For norm `batch` on one GPU or several; norm `sync` stays PyTorch's."""
    tune_allocator: bool = True
    """Let malloc keep freed blocks on a CPU: fewer page faults, more memory held. Turn it off if
    memory is short."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """One training run."""

    preset: str = ""
    """Name of the preset that this configuration is based on."""
    method: Method = "ga+csa"
    """Training method: oracle, source_only, joint, ga, ga+fcsa or ga+csa (docs/method.md)."""
    mix: bool = False
    """Also train on mixed images: unlabelled target images that a teacher labels, with pieces of
    labelled images pasted on. For any method with a source."""
    labelled: Annotated[int, Range(0)] = 0
    """Number of labelled target images."""
    labelled_seed: Seed = 0
    """Seed that selects the labelled images."""
    labelled_list: str | None = None
    """File with the names of the labelled images, one per line, instead of a number."""
    steps: Count = 150_000
    """Optimizer steps of the method."""
    start_steps: Steps = 0
    """Steps of supervised training before the method, on the source (oracle: on the labelled target
    images). Use it if there are no pretrained weights."""
    batch: Annotated[int, Range(1, auto=True)] = 1
    """Images per stream and device in one mini-batch. `auto`: the largest number that fits into
    memory, found before the run."""
    accumulate: Count = 1
    """Gradient accumulation: mini-batches per optimizer step. Raise it for a larger batch without
    more memory."""
    seed: Seed = 0
    """Seed of initial weights, order of the images and augmentation."""
    init: Literal["none", "imagenet", "pretrained"] | str | None = None
    """Weights to start from: a .pth or .safetensors file, a run or a checkpoint; `imagenet`:
    torchvision's, downloaded once; `pretrained`: those of an `hf:` or `timm:` backbone; `none`:
    random weights. Unset is refused for a backbone that has pretrained weights (all but tiny)."""
    allow_mismatch: tuple[str, ...] = ()
    """Modules that --init may leave at their random weights, e.g. classifier."""
    ema: Below1 = 0.0
    """Decay of a running average of the segmentation network's weights, e.g. 0.999; the average is
    evaluated in place of the weights (0: off)."""
    backward: Literal["auto", "fused", "streamed", "concurrent"] = "auto"
    """How the backward passes run. `fused`: one for all streams. `streamed`: one per stream, so
    only one stream's activations are in memory. `concurrent`: source and target at the same time,
    for small networks on a CPU; elsewhere as `fused`. `auto`: `streamed` on one GPU with
    frozen or fused norms and without `--compile`, else `fused`."""
    norm_statistics: NormStatistics = "mixed"
    """Running statistics of batch norm with which the network is evaluated, predicts and is
    exported. `mixed`: those of all streams, as in AdaptSegNet. `domain`: those of the target's
    streams alone. Training keeps both, and every evaluation reports both."""
    eval_every: Steps = 2000
    """Steps between evaluations on the target's validation images (0: only at the end)."""
    save_every: Count = 1000
    """Steps between checkpoints."""
    save_in_background: bool = True
    """Continue training while a checkpoint is written."""
    log_every: Count = 10
    """Steps between lines of metrics.jsonl."""
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Also log to these services, e.g. tensorboard,wandb; each needs its own package."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    toycity: ToyCityConfig = field(default_factory=ToyCityConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def __repr__(self) -> str:
        name = self.preset or "without preset"
        return (
            f"<Config {name}: {self.whole_method}, {self.model.backbone}, {self.total_steps} steps>"
        )

    def resolved(self) -> "Config":
        """With unset values that depend on others filled in: λ_sadv by the method; recomputed sums,
        which save memory, together with a streamed backward."""
        loss, model = self.loss, self.model
        if loss.sadv is None:
            loss = replace(loss, sadv=LAMBDA_SADV.get(self.method, 0.0))
        if model.recompute_sums is None:
            recompute = self.backward == "streamed" and not (
                self.runtime.compile or model.checkpoint_activations
            )
            model = replace(model, recompute_sums=recompute and model.has_cheap_sums)
        return replace(self, loss=loss, model=model)

    def with_runtime(self, **values: Any) -> "Config":
        """This configuration with other values of `runtime`."""
        return replace(self, runtime=replace(self.runtime, **values))

    @property
    def whole_method(self) -> str:
        """The method in a word, with its self-training: `joint+mix`."""
        return f"{self.method}+mix" if self.mix else self.method

    @property
    def global_batch(self) -> int:
        """Images per stream and optimizer step, over all ranks and accumulated mini-batches."""
        return self.batch * self.accumulate * self.distributed.world

    @property
    def total_steps(self) -> int:
        """Steps of the start and of the method together."""
        return self.start_steps + self.steps
