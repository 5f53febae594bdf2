"""DeepLab-v2: the generator G, backbone (features F) and classifier CH (scores S)."""

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from fastass import kernels
from fastass.models.activation_checkpointing import checkpoint_activations
from fastass.models.backbone import Backbone
from fastass.models.config import ModelConfig
from fastass.models.domain_statistics import running_norms
from fastass.models.foreign.choose import make_foreign_backbone
from fastass.models.resnet import BasicBlock, Bottleneck, ResNet
from fastass.models.tiny import TinyResNet
from fastass.models.vgg import VGG16

ASPP_DILATIONS = (6, 12, 18, 24)
# A ToyCity map has 17×33 cells: the paper's dilations would mostly read padding.
TINY_DILATIONS = (1, 2, 4, 6)


class Output(NamedTuple):
    """What one forward returns; h×w is about an eighth of the image's size."""

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
        self.dilations = dilations
        branches = [nn.Conv2d(inputs, num_classes, 3, padding=d, dilation=d) for d in dilations]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
        self.branches = nn.ModuleList(branches)

    def forward(self, features: Tensor) -> Tensor:
        weights = [branch.get_parameter("weight") for branch in self.branches]
        biases = [branch.get_parameter("bias") for branch in self.branches]
        return kernels.multi_dilation_conv(features, weights, biases, self.dilations)


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
            inputs = self.backbone.aux_channels
            assert inputs is not None
            self.aux_classifier = Classifier(inputs, config.num_classes, branches)

    def forward(self, images: Tensor) -> Output:
        features, stage3 = self.backbone(images)
        aux_scores = None if self.aux_classifier is None else self.aux_classifier(stage3)
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


def make_backbone(config: ModelConfig) -> Backbone:
    """The backbone of `config`, with its activation checkpointing."""
    if config.is_foreign:
        return make_foreign_backbone(config)
    backbone: Backbone
    match config.backbone:
        case "resnet101":
            backbone = ResNet(Bottleneck, (3, 4, 23, 3), config.norm, config.channels)
        case "resnet50":
            backbone = ResNet(Bottleneck, (3, 4, 6, 3), config.norm, config.channels)
        case "resnet18":
            backbone = ResNet(BasicBlock, (2, 2, 2, 2), config.norm, config.channels)
        case "tiny":
            backbone = TinyResNet(config.width, config.norm, config.channels)
        case "vgg16":
            backbone = VGG16(config.channels)
        case other:
            raise AssertionError(other)  # ModelConfig has checked it
    checkpoint_activations(backbone, config.checkpointing)
    return backbone


def build_deeplab(config: ModelConfig) -> DeepLab:
    """The network of `config` with random weights, in channels-last memory."""
    model = DeepLab(config)
    if config.norm_momentum is not None:
        for norm in running_norms(model).values():
            norm.momentum = config.norm_momentum
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
