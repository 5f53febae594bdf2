"""Equations 1–8 of the paper as pure functions.

Symbols: F features [B,N,h,w], S scores [B,C,h,w], P probabilities [B,C,H,W], Y labels [B,H,W]
(uint8 train ids, 255 ignored), V class means [B,C,N], z domain (0 source, 1 target).
Every Σ is the mean over its valid terms: pixels not ignored, classes present. No valid term → 0.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastass import kernels

Gan = Literal["vanilla", "ls"]
SOURCE, TARGET = 0, 1


def segmentation_loss(scores: Tensor, labels: Tensor, *, align_corners: bool) -> Tensor:
    """L_seg, Eq. 1: cross-entropy of the scores upsampled to the size of the labels."""
    return kernels.upsample_cross_entropy(scores, labels, align_corners=align_corners)


def segmentation_loss_and_probabilities(
    scores: Tensor, labels: Tensor, *, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """L_seg, Eq. 1, and P [B,C,H,W] in the dtype of the scores, in one pass."""
    return kernels.upsample_cross_entropy(
        scores, labels, align_corners=align_corners, return_probabilities=True
    )


def mix_loss(
    scores: Tensor, labels: Tensor, weights: kernels.PixelWeights, *, align_corners: bool
) -> Tensor:
    """L_mix: weighted cross-entropy of the scores upsampled to the size of the labels.

    The mean over all pixels, so that an image with few weighty pixels counts less.
    """
    return kernels.upsample_cross_entropy(
        scores, labels, align_corners=align_corners, weights=weights
    )


def domain_loss(logits: Tensor, domain: int, gan: Gan = "vanilla") -> Tensor:
    """−log of the probability that D_g gives to `domain`, the mean over its h'×w' outputs.

    With `domain=TARGET` on source maps it is L_gadv, Eq. 2; with the true domain it is one half
    of L_gd, Eq. 3. `gan="ls"` is the least-squares form. logits: [B,1,h',w'], any float dtype.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    wanted = torch.full_like(logits, float(domain))
    if gan == "ls":
        return F.mse_loss(logits, wanted)
    return F.binary_cross_entropy_with_logits(logits, wanted)


def class_mean_loss(logits: Tensor, counts: Tensor, domain: int) -> Tensor:
    """−log D_s(V^k)^{(k + c·domain)}, the mean over the (image, class) pairs that are present.

    With `domain=TARGET` on source means it is L_sadv, Eq. 5; with the true domain it is one half
    of L_sd, Eq. 6. logits: [B,C,2C] of FCSA's D_s on V; counts: [B,C], 0 for an absent class.
    """
    classes = counts.shape[1]
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    index = torch.arange(classes, device=logits.device) + classes * domain
    wanted = index.expand(counts.shape[0], classes).unsqueeze(2)
    nll = -logits.log_softmax(dim=2).gather(2, wanted).squeeze(2)
    present = (counts > 0).to(nll.dtype)
    return (nll * present).sum() / present.sum().clamp(min=1)
