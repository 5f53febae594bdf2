"""VGG-16 of output stride 8, as AdaptSegNet builds its VGG variant."""

from itertools import pairwise

from torch import Tensor, nn

from fastass import kernels
from fastass.models.activation_checkpointing import Stage
from fastass.models.backbone import Backbone

# Channels of the 3×3 convolutions; "pool" is a pooling of stride 2. Pools 4 and 5 of VGG-16 are
# left out, and the last stage is dilated by 2 instead.
STAGES: tuple[int | str, ...] = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool")
DILATED: tuple[tuple[int, int], ...] = (
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 2),
    (512, 2),
    (512, 2),
    (1024, 4),  # fc6
    (1024, 4),  # fc7
)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, computed by `kernels.conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        geometry = self.stride, self.padding, self.dilation
        return kernels.conv2d(x, self.weight, self.bias, *geometry)


class Layers(Stage):
    """The layers of VGG-16. A block ends with each pooling; the next starts with a convolution."""

    def blocks(self) -> list[nn.Module]:
        layers = list(self)
        ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        return [nn.Sequential(*layers[a:b]) for a, b in pairwise([0, *ends, len(layers)])]


class VGG16(Backbone):
    """images [B,3,H,W] → features [B,1024,⌊H/8⌋,⌊W/8⌋]; no norm layers, no second output."""

    out_channels = 1024

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []

        def convolve(outputs: int, dilation: int) -> None:
            nonlocal channels
            conv = Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation)
            if (
                outputs != 1024
            ):  # fc6 and fc7 keep torch's initialisation, as in the AdaptSegNet baseline
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers.extend((conv, nn.ReLU(inplace=True)))
            channels = outputs

        for item in STAGES:
            if isinstance(item, int):
                convolve(item, 1)
            else:
                layers.append(nn.MaxPool2d(2, 2))
        for outputs, dilation in DILATED:
            convolve(outputs, dilation)
        self.features = Layers(*layers)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.features(images), None

    def layers(self) -> list[list[nn.Parameter]]:
        return [list(block.parameters()) for block in self.features.blocks()]
