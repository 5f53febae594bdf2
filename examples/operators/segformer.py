"""A SegFormer of Hugging Face's transformers in a plain training loop, with fastass's loss.

SegFormer's `logits` have a quarter of the image's size. Called with `labels=…` it upsamples them
itself; here it is called without, and fastass takes the small scores. `pip install transformers`.
"""

import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from fastass.kernels import upsample_confusion, upsample_cross_entropy


def small_segformer(classes: int) -> nn.Module:
    """Random weights; use `from_pretrained("nvidia/mit-b0", num_labels=…)` for trained ones."""
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 64, 96],
        decoder_hidden_size=64,
        num_labels=classes,
    )
    return SegformerForSemanticSegmentation(config)


def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """images [B,3,H,W], labels uint8 [B,H,W] → mean cross-entropy at the labels' size."""
    scores = model(pixel_values=images).logits  # [B,C,H/4,W/4]
    return upsample_cross_entropy(scores, labels, align_corners=False, ignore_index=255)


def confusion(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Pixels [C,C], rows truth and columns prediction, at the labels' size."""
    with torch.no_grad():
        scores = model.eval()(pixel_values=images).logits
    return upsample_confusion(scores, labels, align_corners=False)


def main() -> None:
    torch.manual_seed(0)
    model = small_segformer(classes=19)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = torch.randn(2, 3, 64, 128), torch.randint(0, 19, (2, 64, 128)).byte()
    for step in range(3):
        optimizer.zero_grad()
        value = loss(model, images, labels)
        value.backward()
        optimizer.step()
        print(f"step {step}: loss {value:.3f}")
    right = confusion(model, images, labels)
    print(f"pixel accuracy {100 * right.diagonal().sum() / right.sum():.1f} %")


if __name__ == "__main__":
    main()
