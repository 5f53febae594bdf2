"""torchvision's DeepLabV3 head in a plain training loop, with fastass's loss.

The head stands on features of output stride 8, as torchvision's does. Its scores stay at that size:
`upsample_cross_entropy` computes the loss at full size without ever making the full-size scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.kernels import upsample_cross_entropy


def convolution(inputs: int, outputs: int, size: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class DeepLabV3Head(nn.Module):
    """features [B,N,h,w] → scores [B,C,h,w]: ASPP of rates 12, 24, 36 and image pooling."""

    def __init__(self, inputs: int, classes: int, width: int = 256) -> None:
        super().__init__()
        rates = [convolution(inputs, width, 3, rate) for rate in (12, 24, 36)]
        self.branches = nn.ModuleList([convolution(inputs, width, 1), *rates])
        self.pooled = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU())
        self.project = convolution(5 * width, width, 1)
        self.classify = nn.Sequential(convolution(width, width, 3), nn.Conv2d(width, classes, 1))

    def forward(self, features: Tensor) -> Tensor:
        pooled = self.pooled(features.mean((2, 3), keepdim=True)).expand(
            -1, -1, *features.shape[2:]
        )
        maps = [branch(features) for branch in self.branches]
        scores: Tensor = self.classify(self.project(torch.cat([*maps, pooled], 1)))
        return scores


def loss(scores: Tensor, labels: Tensor) -> Tensor:
    """scores [B,C,h,w], labels uint8 [B,H,W] with 255 to be ignored → mean cross-entropy."""
    return upsample_cross_entropy(scores, labels, align_corners=False, ignore_index=255)


def usual_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    wide = F.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(wide, labels.long(), ignore_index=255)


def main() -> None:
    torch.manual_seed(0)
    head = DeepLabV3Head(inputs=64, classes=19, width=32)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    features, labels = torch.randn(2, 64, 16, 32), torch.randint(0, 19, (2, 128, 256)).byte()
    for step in range(5):
        optimizer.zero_grad()
        value = loss(head(features), labels)
        value.backward()
        optimizer.step()
        print(f"step {step}: loss {value:.3f}")


if __name__ == "__main__":
    main()
