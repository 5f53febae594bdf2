"""The teacher: an exponential moving average of G's parameters that labels unlabelled images.

After Tarvainen and Valpola, Mean teachers, 2017. It is a second DeepLab inside the trained module,
named `teacher`, so checkpoints hold it.
"""

import torch
from torch import Tensor

from fastass import kernels
from fastass.kernels.convolution import running_statistics
from fastass.kernels.upsample.pseudo_labels import PseudoLabels
from fastass.models.deeplab import DeepLab


@torch.no_grad()
def pseudo_labels(teacher: DeepLab, images: Tensor, confidence: float) -> PseudoLabels:
    """uint8 labels [B, H, W] of images [B, 3, H, W], and each image's number of confident pixels.

    The teacher is in train mode: its norms take the batch's statistics. It keeps none of them.
    """
    size = (images.shape[2], images.shape[3])
    with running_statistics.collected():  # and dropped
        scores = teacher(images).scores
    return kernels.upsample_pseudo_labels(
        scores, size, confidence, align_corners=teacher.config.align_corners
    )


@torch.no_grad()
def follow(teacher: DeepLab, generator: DeepLab, decay: float, updates: int) -> None:
    """teacher ← d · teacher + (1 − d) · G's parameters; d = min(decay, (1 + k) / (10 + k)) after k
    updates, so that the teacher soon forgets where it began."""
    d = min(decay, (1 + updates) / (10 + updates))
    torch._foreach_lerp_(list(teacher.parameters()), list(generator.parameters()), 1 - d)
