"""The networks of the AdaptSegNet baseline: plain modules in NCHW; weights load from ours by name.

A norm is a layer of its own that reads and writes the whole map; nothing is folded or fused.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.models.config import ModelConfig
from fastass.models.deeplab import ASPP_DILATIONS, TINY_DILATIONS

DEPTHS = {"resnet101": (3, 4, 23, 3), "resnet50": (3, 4, 6, 3), "resnet18": (2, 2, 2, 2)}
# Width, convolutions, dilation; a pool follows each stage of fewer than 512 channels.
VGG_STAGES = ((64, 2, 1), (128, 2, 1), (256, 3, 1), (512, 3, 1), (512, 3, 2), (1024, 2, 4))


def norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    layer.requires_grad_(affine)
    return layer


class Block(nn.Module):
    """A residual block: 1×1 → 3×3 → 1×1, or 3×3 → 3×3."""

    def __init__(
        self, i: int, w: int, o: int, stride: int, d: int, bottleneck: bool, project: bool, a: bool
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1 = nn.Conv2d(i, w, 1, stride, bias=False)
            self.conv2 = nn.Conv2d(w, w, 3, padding=d, dilation=d, bias=False)
            self.conv3 = nn.Conv2d(w, o, 1, bias=False)
            self.bn3 = norm(o, a)
        else:
            self.conv1 = nn.Conv2d(i, w, 3, stride, padding=d, dilation=d, bias=False)
            self.conv2 = nn.Conv2d(w, w, 3, padding=d, dilation=d, bias=False)
        self.bn1, self.bn2 = norm(w, a), norm(w, a)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), norm(o, a)) if project else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(self.relu(out)))
        out += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(out)
        return activated


class ResNet(nn.Module):
    """images [B,3,H,W] → (features of stage 4, of stage 3), output stride 8."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        tiny = config.backbone == "tiny"
        first = config.width if tiny else 64
        deep = config.backbone in ("resnet101", "resnet50")
        widths = (first, 2 * first, 6 * first, 6 * first) if tiny else (64, 128, 256, 512)
        depths = (1, 1, 1, 1) if tiny else DEPTHS[config.backbone]
        self.conv1 = nn.Conv2d(3, first, 3 if tiny else 7, 2, 1 if tiny else 3, bias=False)
        self.bn1 = norm(first, tiny)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        channels = first
        stages = []
        for w, depth, stride, d in zip(widths, depths, (1, 2, 1, 1), (1, 1, 2, 4), strict=True):
            outputs = 4 * w if deep else w
            blocks = []
            for k in range(depth):
                s = stride if k == 0 else 1
                project = k == 0 and (s != 1 or channels != outputs or d > 1)
                blocks.append(Block(channels, w, outputs, s, d, deep, project, tiny))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.out_channels, self.aux_channels = channels, outputs if tiny else channels // 2

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        middle = self.layer3(self.layer2(self.layer1(x)))
        return self.layer4(middle), middle


class VGG16(nn.Module):
    """images [B,3,H,W] → (features, None), output stride 8; no norms."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth, d in VGG_STAGES:
            for _ in range(depth):
                layers.append(nn.Conv2d(channels, width, 3, padding=d, dilation=d))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            if width < 512:
                layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.out_channels, self.aux_channels = channels, 0

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.features(images), None


class Classifier(nn.Module):
    """The sum of dilated 3×3 convolutions."""

    def __init__(self, inputs: int, classes: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(inputs, classes, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            out += branch(x)
        return out


class Generator(nn.Module):
    """images → (features F, scores of the main head and of the auxiliary one where there is one).

    Frozen statistics: the norms stay in evaluation mode, as one freezes them in plain torch.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.frozen_norm = config.norm == "frozen"
        self.backbone = VGG16() if config.backbone == "vgg16" else ResNet(config)
        all_dilations = TINY_DILATIONS if config.backbone == "tiny" else ASPP_DILATIONS
        dilations = all_dilations[: config.aspp_branches]
        self.classifier = Classifier(self.backbone.out_channels, config.num_classes, dilations)
        self.aux_classifier = (
            Classifier(self.backbone.aux_channels, config.num_classes, dilations)
            if config.heads == "multi"
            else None
        )

    def train(self, mode: bool = True) -> "Generator":
        super().train(mode)
        if self.frozen_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
                    module.requires_grad_(False)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        features, middle = self.backbone(images)
        scores = [self.classifier(features)]
        if self.aux_classifier is not None:
            scores.append(self.aux_classifier(middle))
        return features, scores


class GlobalDiscriminator(nn.Module):
    """D_g: five 4×4 convolutions of stride 2."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        channels = (classes, width, 2 * width, 4 * width, 8 * width, 1)
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 4, 2, 1) for i, o in pairwise(channels))
        self.leaky_relu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.leaky_relu(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


class SemanticDiscriminator(nn.Module):
    """D_s: N → hidden → 2C, on vectors [..., N] (FCSA) or, as 1×1 convolutions, on maps (CSA)."""

    def __init__(self, features: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.empty(hidden, features))
        self.bias1 = nn.Parameter(torch.empty(hidden))
        self.weight2 = nn.Parameter(torch.empty(2 * classes, hidden))
        self.bias2 = nn.Parameter(torch.empty(2 * classes))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = F.leaky_relu(F.conv2d(x, self.weight1[:, :, None, None], self.bias1), 0.2)
            return F.conv2d(x, self.weight2[:, :, None, None], self.bias2)
        x = F.leaky_relu(F.linear(x, self.weight1, self.bias1), 0.2)
        return F.linear(x, self.weight2, self.bias2)
