"""Dilated ResNets of output stride 8, as DeepLab-v2 and AdaptSegNet build them.

Differences from torchvision's: a bottleneck strides in its first 1×1 convolution, the pooling
rounds up (1280×720 → 161×91), stages 3 and 4 have stride 1 and dilation 2 and 4. Parameter names
are torchvision's.
"""

from torch import Tensor, nn

from fastass.kernels.convolution.recompute import Again
from fastass.models.activation_checkpointing import run_blocks
from fastass.models.config import Checkpointing, NormKind
from fastass.models.norm import conv_norm, make_norm


class Block(nn.Module):
    """What both residual blocks share: the norm's kind, the projection, the residual sum."""

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

    def inner(self, x: Tensor, again: Again | None = None) -> Tensor:
        """Everything before the last convolution; `again`: how a backward gets x."""
        raise NotImplementedError

    def last(self) -> tuple[nn.Conv2d, nn.Module]:
        """The last convolution and its norm, which the shortcut is added to."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x), x)

    def outer(self, inner: Tensor, x: Tensor, again: Again | None = None) -> Tensor:
        """The last convolution and the residual sum; `again`: how a backward gets the result."""
        if self.downsample is not None:
            conv, norm = self.downsample
            assert isinstance(conv, nn.Conv2d)
            x = conv_norm(x, conv, norm)
        return conv_norm(inner, *self.last(), residual=x, relu=True, sum_again=again)


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

    def inner(self, x: Tensor, again: Again | None = None) -> Tensor:
        return conv_norm(x, self.conv1, self.bn1, relu=True, x_again=again)

    def last(self) -> tuple[nn.Conv2d, nn.Module]:
        return self.conv2, self.bn2


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

    def inner(self, x: Tensor, again: Again | None = None) -> Tensor:
        x = conv_norm(x, self.conv1, self.bn1, relu=True, x_again=again)
        return conv_norm(x, self.conv2, self.bn2, relu=True)

    def last(self) -> tuple[nn.Conv2d, nn.Module]:
        return self.conv3, self.bn3


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
) -> nn.Sequential:
    """`depth` blocks; the first changes stride and channels (it projects where either changes, or
    the stage is dilated), all have the stage's dilation."""
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
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """images [B,3,H,W] → (features of stage 4, features of stage 3), both at h×w.

    The affine of the norms does not train (AdaptSegNet); statistics follow `norm`.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        norm: NormKind,
        checkpointing: Checkpointing = "off",
    ) -> None:
        """checkpointing: see `run_blocks`."""
        super().__init__()
        self.checkpointing: Checkpointing = checkpointing
        e = block.expansion
        self.out_channels, self.aux_channels = 512 * e, 256 * e
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, 64, train_affine=False)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)

        def stage(index: int, inputs: int, width: int, stride: int, dilation: int) -> nn.Sequential:
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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # AdaptSegNet's: a stand-in that pretrained weights replace.
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.maxpool(conv_norm(images, self.conv1, self.bn1, relu=True))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = run_blocks(stage, x, self.checkpointing)
        return run_blocks(self.layer4, x, self.checkpointing), x
