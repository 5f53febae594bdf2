"""Which segmentation network to build."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from fastass.errors import UserError
from fastass.models.number_range import Range
from fastass.pipelines.datasets.classes import MAX_CLASSES

Backbone = Literal["resnet101", "resnet50", "resnet18", "vgg16", "tiny"]
Heads = Literal["single", "multi"]
NormKind = Literal["batch", "frozen", "sync"]
Checkpointing = Literal["off", "outputs", "blocks"]


class BackboneName:
    """The permitted names of a backbone, for the help: `Annotated[str, BackboneName()]`."""

    def __str__(self) -> str:
        return f"{', '.join(get_args(Backbone))}, hf:NAME, timm:NAME or MODULE:CLASS"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """DeepLab-v2: a backbone (fastass's own have output stride 8) and dilated classifiers."""

    backbone: Annotated[str, BackboneName()] = "resnet101"
    """Backbone of the segmentation network. The paper uses `resnet101`. `tiny` is a narrow ResNet
    that trains from scratch on two CPU cores. `hf:` and a name or a folder: a model of Hugging
    Face's transformers; `timm:` and a name: a model of timm. Both are optional
    packages. MODULE:CLASS: a class of your own."""

    backbone_config: str = ""
    """Configuration of a Hugging Face backbone, as JSON; filled in at the start of a run."""

    channels: Annotated[int, Range(3, 64)] = 3
    """Channels of the images: 3 are red, green and blue; 4 and more have further ones after them,
    such as depth or near infrared. Files: PNG with 4 channels, or .npy."""

    heads: Heads = "single"
    """Number of classifiers. `multi` adds one on the third stage, as AdaptSegNet's multi-level
    model does; vgg16 does not support it."""

    num_classes: Annotated[int, Range(2, MAX_CLASSES)] = 19
    """Number of classes C."""

    aspp_branches: Literal[4, 2] = 4
    """Number of dilated convolutions in each classifier. AdaptSegNet's published weights use 2."""

    align_corners: bool = True
    """Corner rule of every bilinear upsampling. The AdaptSegNet baseline uses true: its torch 0.4
    had no other."""

    norm: NormKind = "batch"
    """Kind of batch norm. `batch` updates its running statistics. `frozen` never changes and is
    folded into the convolutions, which is faster. `sync` is `batch` with statistics over all
    processes."""

    norm_momentum: Annotated[float, Range(0, 1, open_low=True)] | None = None
    """Share of a step's statistics in the running statistics of batch norm. Raise it for runs of
    few steps, e.g. 0.3 with large batches. Unset: the network's own, 0.1."""

    checkpoint_activations: bool = False
    """Keep only the inputs of the backbone's blocks and compute the rest again in the backward.
    Takes less memory and about a third more compute."""

    recompute_sums: bool | None = None
    """Keep one in six outputs of the backbone's blocks, its widest maps. The backward computes each
    of the others again by one 1×1 convolution. For resnet50 and resnet101 with norm frozen.
    Default: on where `backward` is streamed."""

    width: Annotated[int, Range(16, 4096, multiple=16)] = 16
    """Channels of the first stage of backbone `tiny`, a multiple of 16. Its features have six times
    as many. Other backbones ignore it."""

    def __post_init__(self) -> None:
        if self.backbone not in get_args(Backbone) and not self.is_foreign:
            raise UserError(f"model.backbone: {self.backbone!r} is not one of {BackboneName()}")
        if self.is_foreign and self.norm != "batch":
            raise UserError(
                f"model.norm: {self.backbone} keeps the norms that it has; use norm=batch"
            )
        for field, kind in (("heads", Heads), ("norm", NormKind)):
            value = getattr(self, field)
            if value not in get_args(kind):
                raise UserError(
                    f"model.{field}: {value!r} is not one of {', '.join(get_args(kind))}"
                )
        if not 3 <= self.channels <= 64:
            raise UserError(f"model.channels: {self.channels} channels; 3 to 64 are supported")
        if self.aspp_branches not in (2, 4):
            raise UserError(f"model.aspp_branches: {self.aspp_branches!r} is not 4 or 2")
        if not 2 <= self.num_classes <= MAX_CLASSES:
            raise UserError(
                f"model.num_classes: {self.num_classes} classes; 2 to {MAX_CLASSES} are supported"
            )
        # oneDNN's AVX-512 strided 1×1 convolution of 8 channels overruns its buffers (torch 2.13).
        if self.width < 16 or self.width % 16:
            raise UserError(f"model.width: {self.width} is not a positive multiple of 16")
        if self.recompute_sums and not self.has_cheap_sums:
            raise UserError(
                "model.recompute_sums: needs backbone resnet50 or resnet101 with norm frozen, not "
                f"{self.backbone} with norm {self.norm}; use checkpoint_activations"
            )
        if self.recompute_sums and self.checkpoint_activations:
            raise UserError(
                "model.recompute_sums: checkpoint_activations already recomputes whole blocks; use "
                "one of the two"
            )
        if self.backbone == "vgg16" and self.heads == "multi":
            raise UserError("model.heads: vgg16 has a single classifier; use heads=single")

    @property
    def is_foreign(self) -> bool:
        """Whether the backbone is another package's, or the user's own."""
        return ":" in self.backbone

    @property
    def has_cheap_sums(self) -> bool:
        """Whether `recompute_sums` is supported: bottlenecks whose norm is folded."""
        return self.backbone in ("resnet50", "resnet101") and self.norm == "frozen"

    @property
    def has_running_statistics(self) -> bool:
        """Whether training updates running statistics."""
        return self.backbone != "vgg16" and self.norm != "frozen"

    @property
    def checkpointing(self) -> Checkpointing:
        """The two switches as one: what of the backbone's blocks is computed again."""
        if self.checkpoint_activations:
            return "blocks"
        return "outputs" if self.recompute_sums else "off"
