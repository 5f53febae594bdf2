"""Class mixing: half of the classes of a labelled image, pasted onto an unlabelled one.

After ClassMix (Olsson et al., 2021) and DACS (Tranheden et al., 2021).
"""

import torch
from torch import Tensor

IGNORED = 255


def pasted_pixels(labels: Tensor, keys: Tensor) -> Tensor:
    """bool [B, H, W]: the pixels of ⌈n/2⌉ of the n classes that each image has.

    labels: uint8 [B, H, W], ignored pixels are never pasted. keys: [B, C], distinct random numbers;
    the classes with the smallest are chosen.
    """
    classes = keys.shape[1]
    index = labels.flatten(1).long()
    present = torch.zeros(len(labels), 256, dtype=torch.bool, device=labels.device)
    present.scatter_(1, index, True)
    present = present[:, :classes]
    rank = keys.masked_fill(~present, torch.inf).argsort(1).argsort(1)
    half = (present.sum(1, keepdim=True) + 1) // 2
    chosen = torch.zeros(len(labels), 256, dtype=torch.bool, device=labels.device)
    chosen[:, :classes] = present & (rank < half)
    return chosen.gather(1, index).view_as(labels)
