"""The weight of each batch of a step, so that every Σ of the paper runs over the whole step.

A loss term is the mean m over the n valid items of one batch: labelled pixels, items of D_s or
images (`fastass.method.terms`). A step may take several batches, accumulated and on several ranks.
The mean over all their items is Σ nᵢ mᵢ / Σ nᵢ, not the mean of the means, so batch i has the
weight nᵢ / Σ n. The gradients then do not depend on how a global batch is divided:
1 rank × 4 images = 2 × 2 = 4 × 1.

The counts come from the labels alone, before the forward. The ranks exchange one number per term.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastass.kernels.nearest import nearest_labels
from fastass.method.adaptation import Adaptation
from fastass.method.terms import TERMS
from fastass.models.config import ModelConfig
from fastass.models.deeplab import make_backbone
from fastass.models.discriminators import PixelDiscriminator
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.process_group import World

IGNORED = 255


class ItemCounts(NamedTuple):
    """The valid items of one stream, float64 0-d, by the kinds of `Term.counts`."""

    pixels: Tensor
    semantic: Tensor
    images: Tensor


def item_weights(module: Adaptation, batches: Sequence[StepBatch], world: World) -> Tensor:
    """[len(batches), terms], of the batches' device and dtype: the weight of each batch per term.

    The weights of one term add up to 1 over the batches of all ranks, or to 0 for a term that has
    no valid item at all.
    """
    counts = torch.stack([_counts(module, batch) for batch in batches])
    total = world.sum(counts.sum(dim=0))
    dtype = next(s.images.dtype for s in batches[0] if s is not None)
    return (counts / total.clamp(min=1)).to(dtype)


def _counts(module: Adaptation, batch: StepBatch) -> Tensor:
    """float64 [terms]: the valid items of each term."""
    device = next(s.images.device for s in batch if s is not None)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    counts = {name: _items(module, stream, zero) for name, stream in batch._asdict().items()}
    return torch.stack([getattr(counts[term.stream], term.counts) for term in TERMS.values()])


def _items(module: Adaptation, stream: Batch | None, zero: Tensor) -> ItemCounts:
    """The valid items of one stream; all zero where the step does not use it."""
    if stream is None:
        return ItemCounts(zero, zero, zero)
    images, labels = stream.images, stream.labels
    image_count = torch.full_like(zero, images.shape[0])  # D_g has as many outputs for every image
    if labels is None or stream.pasted is not None:
        return ItemCounts(zero, zero, image_count)
    pixels = (labels != IGNORED).sum().to(zero)
    d_s = module.semantic_discriminator
    if d_s is None:
        return ItemCounts(pixels, zero, image_count)
    config = module.generator.config
    size = feature_size(config, (images.shape[2], images.shape[3]))
    cells = nearest_labels(labels, size, module.aligned_labels)
    if isinstance(d_s, PixelDiscriminator):
        semantic = (cells != IGNORED).sum()
    else:
        present = torch.zeros(len(cells), 256, dtype=torch.bool, device=cells.device)
        present.scatter_(1, cells.flatten(1).long(), True)
        semantic = present[:, : config.num_classes].sum()
    return ItemCounts(pixels, semantic.to(zero), image_count)


@functools.cache
def feature_size(config: ModelConfig, size: tuple[int, int]) -> tuple[int, int]:
    """(h,w) of the features of an image of `size` (H,W), from a forward on the meta device."""
    with torch.device("meta"), torch.no_grad():
        features, _ = make_backbone(config).eval()(torch.empty(1, 3, *size))
    return features.shape[2], features.shape[3]
