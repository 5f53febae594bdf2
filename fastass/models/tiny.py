"""A narrow ResNet of output stride 8 that learns ToyCity from scratch on two CPU cores."""

from torch import Tensor, nn

from fastass.models.activation_checkpointing import Stage
from fastass.models.backbone import Backbone
from fastass.models.config import NormKind
from fastass.models.norm import conv_bn, make_norm
from fastass.models.resnet import BasicBlock, convolutions, make_stage


class TinyResNet(Backbone):
    """images [B,3,H,W] → (features of stage 4, features of stage 3), at 17×33 for 256×128.

    One residual block per stage. Pooling rounds up as in the large networks, which suits
    `align_corners`. Unlike there, the norms' scale and shift train and the convolutions start from
    He's initialisation, since there are no pretrained weights to start from.
    """

    def __init__(self, width: int, norm: NormKind, channels: int = 3) -> None:
        super().__init__()
        w = width
        self.out_channels, self.aux_channels = 6 * w, 6 * w
        self.conv1 = nn.Conv2d(channels, w, 3, stride=2, padding=1, bias=False)
        self.bn1 = make_norm(norm, w, train_affine=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)

        def stage(inputs: int, outputs: int, stride: int, dilation: int) -> Stage:
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
        for conv in convolutions(self):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = conv_bn(images, self.conv1, self.bn1, relu=True)
        x = self.maxpool(x)
        stage3 = self.layer3(self.layer2(self.layer1(x)))
        return self.layer4(stage3), stage3
