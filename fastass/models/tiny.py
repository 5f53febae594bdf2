"""A narrow ResNet of output stride 8 that learns ToyCity from scratch on two CPU cores."""

from torch import Tensor, nn

from fastass.models.activation_checkpointing import run_blocks
from fastass.models.config import Checkpointing, NormKind
from fastass.models.norm import conv_norm, make_norm
from fastass.models.resnet import BasicBlock, make_stage


class TinyResNet(nn.Module):
    """images [B,3,H,W] → (features of stage 4, features of stage 3), at 17×33 for 256×128.

    One residual block a stage. Pooling rounds up as in the large networks, which is what
    `align_corners` fits. Unlike theirs, its norms' affine trains and its convolutions start from
    He's initialisation, since there are no weights to start from.
    """

    def __init__(self, width: int, norm: NormKind, checkpointing: Checkpointing = "off") -> None:
        super().__init__()
        self.checkpointing: Checkpointing = checkpointing
        w = width
        self.out_channels, self.aux_channels = 6 * w, 6 * w
        self.conv1 = nn.Conv2d(3, w, 3, stride=2, padding=1, bias=False)
        self.bn1 = make_norm(norm, w, train_affine=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)

        def stage(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Sequential:
            return make_stage(
                BasicBlock,
                inputs,
                outputs,
                1,
                stride=stride,
                dilation=dilation,
                norm=norm,
                affine=True,
            )

        self.layer1 = stage(w, w, 1, 1)
        self.layer2 = stage(w, 2 * w, 2, 1)
        self.layer3 = stage(2 * w, 6 * w, 1, 2)
        self.layer4 = stage(6 * w, 6 * w, 1, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = conv_norm(images, self.conv1, self.bn1, relu=True)
        x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3):
            x = run_blocks(stage, x, self.checkpointing)
        return run_blocks(self.layer4, x, self.checkpointing), x
