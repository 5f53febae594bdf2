"""Dilated ResNets of output stride 8, as DeepLab-v2 and AdaptSegNet build them.

Differences from torchvision's: a bottleneck strides in its first 1×1 convolution, the pooling
rounds up (1280×720 → 161×91), stages 3 and 4 have stride 1 and dilation 2 and 4. Parameter names
are torchvision's.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from fastass import kernels
from fastass.models.activation_checkpointing import Stage
from fastass.models.backbone import Backbone
from fastass.models.config import NormKind
from fastass.models.norm import conv_bn, layer_of, make_norm


class Block(nn.Module):
    """What both residual blocks have: a shortcut, the identity or a 1×1 projection."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, project: bool, norm: NormKind, affine: bool
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                make_norm(norm, outputs, train_affine=affine),
            )
            if project
            else None
        )

    def residual(self, x: Tensor, *layers: tuple[nn.Conv2d, nn.Module]) -> Tensor:
        """ReLU(layers(x) + shortcut(x)), with a ReLU between two layers."""
        shortcut = None if self.downsample is None else layer_of(*self.downsample)
        return kernels.residual_block(x, [layer_of(*layer) for layer in layers], shortcut)


class BasicBlock(Block):
    """3×3 → 3×3."""

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        project: bool,
        norm: NormKind,
        affine: bool,
    ) -> None:
        super().__init__(inputs, width, stride, project, norm, affine)
        d = dilation
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=d, dilation=d, bias=False)
        self.bn1 = make_norm(norm, width, train_affine=affine)
        self.conv2 = nn.Conv2d(width, width, 3, padding=d, dilation=d, bias=False)
        self.bn2 = make_norm(norm, width, train_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x, (self.conv1, self.bn1), (self.conv2, self.bn2))


class Bottleneck(Block):
    """1×1 with the stride → 3×3 with the dilation → 1×1 to four times the width."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        project: bool,
        norm: NormKind,
        affine: bool,
    ) -> None:
        super().__init__(inputs, width, stride, project, norm, affine)
        d = dilation
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = make_norm(norm, width, train_affine=affine)
        self.conv2 = nn.Conv2d(width, width, 3, padding=d, dilation=d, bias=False)
        self.bn2 = make_norm(norm, width, train_affine=affine)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = make_norm(norm, width * 4, train_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)
        return self.residual(x, *layers)


def convolutions(network: nn.Module) -> Iterable[nn.Conv2d]:
    """Every convolution of a network, in the order of its modules."""
    return (module for module in network.modules() if isinstance(module, nn.Conv2d))


def make_stage(
    block: type[BasicBlock] | type[Bottleneck],
    inputs: int,
    width: int,
    depth: int,
    *,
    stride: int,
    dilation: int,
    norm: NormKind,
    affine: bool,
) -> Stage:
    """`depth` blocks of one dilation. The first one may change the stride and the channels; its
    shortcut is a projection if it does, or if the stage is dilated."""
    outputs = width * block.expansion
    project = stride != 1 or inputs != outputs or dilation > 1
    blocks: list[nn.Module] = []
    for index in range(depth):
        first = index == 0
        blocks.append(
            block(
                inputs if first else outputs,
                width,
                stride=stride if first else 1,
                dilation=dilation,
                project=first and project,
                norm=norm,
                affine=affine,
            )
        )
    return Stage(*blocks)


class ResNet(Backbone):
    """images [B,3,H,W] → (features of stage 4, features of stage 3), both at h×w.

    The norms' scale and shift do not train, as in the AdaptSegNet baseline; their statistics follow
    `norm`.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        norm: NormKind,
        channels: int = 3,
    ) -> None:
        super().__init__()
        e = block.expansion
        self.out_channels, self.aux_channels = 512 * e, 256 * e
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, 64, train_affine=False)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)

        def stage(index: int, inputs: int, width: int, stride: int, dilation: int) -> Stage:
            return make_stage(
                block,
                inputs,
                width,
                depths[index],
                stride=stride,
                dilation=dilation,
                norm=norm,
                affine=False,
            )

        self.layer1 = stage(0, 64, 64, 1, 1)
        self.layer2 = stage(1, 64 * e, 128, 2, 1)
        self.layer3 = stage(2, 128 * e, 256, 1, 2)
        self.layer4 = stage(3, 256 * e, 512, 1, 4)
        for conv in convolutions(self):
            # The AdaptSegNet baseline's random start, which pretrained weights replace.
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = conv_bn(images, self.conv1, self.bn1, relu=True)
        x = self.maxpool(x)
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        return self.layer4(stage3), stage3
