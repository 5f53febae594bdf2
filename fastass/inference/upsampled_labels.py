"""The likeliest class of every pixel of upsampled scores, in bands of rows where they are large."""

import torch
import torch.nn.functional as F
from torch import Tensor

BAND = 64  # rows
LARGE = 2**28  # bytes of full-resolution scores from which on they are computed in bands


@torch.inference_mode()
def upsampled_labels(scores: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """argmax over C of scores [B,C,h,w] upsampled bilinearly to `size` (H,W), uint8 [B,H,W].

    Large results are computed in bands of rows: first along the width, then between two rows.
    """
    height, width = size
    if scores[:, :, 0, 0].numel() * height * width * 4 < LARGE:
        full = F.interpolate(scores, size=size, mode="bilinear", align_corners=align_corners)
        return full.argmax(1).to(torch.uint8)
    rows = scores.shape[2]
    wide = F.interpolate(
        scores.contiguous(), size=(rows, width), mode="bilinear", align_corners=align_corners
    )
    i = torch.arange(height, dtype=torch.float32, device=scores.device)
    if align_corners:
        at = i * torch.tensor((rows - 1) / max(1, height - 1), dtype=torch.float32)
    else:
        at = ((i + 0.5) * torch.tensor(rows / height, dtype=torch.float32) - 0.5).clamp_min(0)
    above = at.floor().long().clamp_max(rows - 1)
    below, share = (above + 1).clamp_max(rows - 1), (at - above)[:, None]
    labels = torch.empty((scores.shape[0], *size), dtype=torch.uint8, device=scores.device)
    for band in (slice(top, top + BAND) for top in range(0, height, BAND)):
        first, second = wide[:, :, above[band]], wide[:, :, below[band]]
        labels[:, band] = first.mul_(1 - share[band]).add_(second.mul_(share[band])).argmax(1)
    return labels
