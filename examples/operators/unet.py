"""A plain U-Net in a plain training loop, with fastass's loss and soft labels for a discriminator.

This U-Net ends at half of the image's size; the loss is at full size. The further the scores are
from full size, the more the operator saves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels import upsample_cross_entropy, upsample_softmax


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """images [B,3,H,W], H and W multiples of 8 → scores [B,C,H/2,W/2]."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.first = double_conv(3, width)
        self.down1, self.down2 = double_conv(width, 2 * width), double_conv(2 * width, 4 * width)
        self.bottom = double_conv(4 * width, 4 * width)
        self.up2 = double_conv(8 * width, 2 * width)
        self.up1 = double_conv(4 * width, width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        half = self.down1(F.max_pool2d(x, 2))
        quarter = self.down2(F.max_pool2d(half, 2))
        y = F.interpolate(self.bottom(F.max_pool2d(quarter, 2)), scale_factor=2)
        y = F.interpolate(self.up2(torch.cat([quarter, y], 1)), scale_factor=2)
        scores: Tensor = self.classify(self.up1(torch.cat([half, y], 1)))
        return scores


def loss(scores: Tensor, labels: Tensor) -> Tensor:
    """scores [B,C,H/2,W/2], labels uint8 [B,H,W] with 255 to be ignored → mean cross-entropy."""
    return upsample_cross_entropy(scores, labels, align_corners=True, ignore_index=255)


def probabilities(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Class probabilities [B,C,H,W] at full size, differentiable: a discriminator's input."""
    return upsample_softmax(scores, size, align_corners=True)


def main() -> None:
    torch.manual_seed(0)
    net = UNet(classes=5)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64)).byte()
    for step in range(5):
        optimizer.zero_grad()
        scores = net(images)
        value = loss(scores, labels)
        value.backward()
        optimizer.step()
        print(f"step {step}: loss {value:.3f}")
    print(f"probabilities {list(probabilities(net(images), (64, 64)).shape)}")


if __name__ == "__main__":
    main()
