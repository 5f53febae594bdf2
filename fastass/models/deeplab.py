"""DeepLab-v2: the generator G, backbone (features F) and classifier CH (scores S)."""

from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels.convolution.conv2d import conv2d, prefers_products
from fastass.models.config import ModelConfig
from fastass.models.resnet import BasicBlock, Bottleneck, ResNet
from fastass.models.tiny import TinyResNet
from fastass.models.vgg import VGG16

ASPP_DILATIONS = (6, 12, 18, 24)
# A ToyCity map has 17×33 cells: the paper's dilations would mostly read padding.
TINY_DILATIONS = (1, 2, 4, 6)


_ONE_BY_ONE = nn.Conv2d(1, 1, 1, device="meta")  # stride 1, no padding


class Output(NamedTuple):
    """What one forward gives; h×w is about an eighth of the image."""

    features: Tensor
    """F [B,N,h,w], after the last stage."""
    scores: Tensor
    """S [B,C,h,w], logits."""
    aux_scores: Tensor | None
    """Logits [B,C,h,w] of the classifier on stage 3 (multi-level heads), else None."""

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """The scores of every head, the main one first."""
        return (self.scores,) if self.aux_scores is None else (self.scores, self.aux_scores)


class ParameterGroup(TypedDict):
    """One optimizer group."""

    name: str
    params: list[nn.Parameter]


class Classifier(nn.Module):
    """CH: the sum of 3×3 convolutions of several dilations. [B,N,h,w] → [B,C,h,w]."""

    def __init__(self, inputs: int, num_classes: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(inputs, num_classes, 3, padding=d, dilation=d) for d in dilations
        )
        self.taps = 9 * len(dilations) * num_classes  # of all branches
        for branch in self.branches:
            assert isinstance(branch, nn.Conv2d)
            nn.init.normal_(branch.weight, std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        if prefers_products(features) and features.shape[1] > self.taps:
            return self._as_product(features)
        scores: Tensor | None = None
        for branch in self.branches:
            assert isinstance(branch, nn.Conv2d)
            more = conv2d(features, branch.weight, branch.bias, branch)
            scores = more if scores is None else scores + more
        assert scores is not None
        return scores

    def _as_product(self, features: Tensor) -> Tensor:
        """The same sum: one 1×1 convolution for the taps of all branches, which reads F once, then
        each tap's scores moved to where they belong.

        A dilated convolution with few outputs reaches a sixth of the rate of such a product. It
        takes features with more channels than there are taps, or the map of all taps is larger.
        """
        branches = [b for b in self.branches if isinstance(b, nn.Conv2d)]
        h, w = features.shape[2:]
        # F.fold puts tap (i,j) at +(i,j); a convolution reads it from there, hence the flip.
        taps = [b.weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2) for b in branches]
        product = conv2d(features, torch.cat(taps)[:, :, None, None], None, _ONE_BY_ONE)
        scores = torch.stack([b.bias for b in branches if b.bias is not None]).sum(dim=0)
        scores = scores[:, None, None]
        for branch, columns in zip(
            branches, product.flatten(2).chunk(len(branches), 1), strict=True
        ):
            d = branch.dilation
            scores = scores + F.fold(columns, (h, w), 3, dilation=d, padding=d)
        return scores.contiguous(memory_format=torch.channels_last)


class DeepLab(nn.Module):
    """images float [B,3,H,W] → Output. Built from a ModelConfig, which it keeps as `config`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config)
        dilations = TINY_DILATIONS if config.backbone == "tiny" else ASPP_DILATIONS
        branches = dilations[: config.aspp_branches]
        self.features = self.backbone.out_channels
        self.classifier = Classifier(self.features, config.num_classes, branches)
        self.aux_classifier: Classifier | None = None
        if config.heads == "multi":
            assert not isinstance(self.backbone, VGG16)
            inputs = self.backbone.aux_channels
            self.aux_classifier = Classifier(inputs, config.num_classes, branches)

    def forward(self, images: Tensor) -> Output:
        features, middle = self.backbone(images)
        aux_scores = None if self.aux_classifier is None else self.aux_classifier(middle)
        return Output(features, self.classifier(features), aux_scores)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Trainable parameters: those of the backbone, then those of the classifiers."""
        heads = [m for m in (self.classifier, self.aux_classifier) if m is not None]
        return [
            {
                "name": "backbone",
                "params": [p for p in self.backbone.parameters() if p.requires_grad],
            },
            {
                "name": "classifiers",
                "params": [p for head in heads for p in head.parameters() if p.requires_grad],
            },
        ]


def make_backbone(config: ModelConfig) -> ResNet | TinyResNet | VGG16:
    again = config.checkpointing
    match config.backbone:
        case "resnet101":
            return ResNet(Bottleneck, (3, 4, 23, 3), config.norm, again)
        case "resnet50":
            return ResNet(Bottleneck, (3, 4, 6, 3), config.norm, again)
        case "resnet18":
            return ResNet(BasicBlock, (2, 2, 2, 2), config.norm, again)
        case "tiny":
            return TinyResNet(config.width, config.norm, again)
        case "vgg16":
            return VGG16(again)


def build_deeplab(config: ModelConfig) -> DeepLab:
    """The network of `config` with random weights, in channels-last memory."""
    return DeepLab(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
