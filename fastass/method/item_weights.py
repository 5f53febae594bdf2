"""What each batch of a step counts for, so that every Σ of the paper is one over the whole step.

A term is the mean m over the n valid items of one batch: labelled pixels, present (image, class)
pairs, images. A step may take several batches, accumulated and on several ranks. The mean over all
their items is Σ nᵢ mᵢ / Σ nᵢ, not the mean of the means; so batch i has the share nᵢ / Σ n. With
it the gradients do not depend on how a global batch is cut: 1 rank × 4 images = 2 × 2 = 4 × 1.

The counts come from the labels alone, before the forward, and cost one exchange of eight numbers.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastass.kernels.nearest import nearest_labels
from fastass.method.adaptation import Adaptation, LossTerms
from fastass.models.config import ModelConfig
from fastass.models.deeplab import make_backbone
from fastass.models.discriminators import PixelDiscriminator
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.runtime.process_group import World

IGNORED = 255


def item_weights(module: Adaptation, batches: Sequence[StepBatch], world: World) -> Tensor:
    """[len(batches), 8], of the batches' device and dtype: the share of each batch in each term.

    The sum over the batches of all ranks is 1, or 0 for a term that has no valid item at all.
    """
    counts = torch.stack([_counts(module, batch) for batch in batches])
    total = world.sum(counts.sum(dim=0))
    dtype = next(s.images.dtype for s in batches[0] if s is not None)
    return (counts / total.clamp(min=1)).to(dtype)


def _counts(module: Adaptation, batch: StepBatch) -> Tensor:
    """float64 [8]: the valid items of each term."""
    device = next(s.images.device for s in batch if s is not None)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    seg_s, sem_s, images_s = _stream(module, batch.source, zero)
    seg_t, sem_t, _ = _stream(module, batch.labelled, zero)
    _, _, images_u = _stream(module, batch.unlabelled, zero)
    terms = LossTerms(
        seg_source=seg_s,
        seg_target=seg_t,
        gadv=images_s,
        sadv=sem_s,
        gd_source=images_s,
        gd_target=images_u,
        sd_source=sem_s,
        sd_target=sem_t,
    )
    return torch.stack([count for count in terms if count is not None])


def _stream(
    module: Adaptation, stream: Batch | None, zero: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The items of L_seg, of the semantic losses and of the global losses in one stream."""
    if stream is None:
        return zero, zero, zero
    images, labels = stream.images, stream.labels
    number = torch.full_like(zero, images.shape[0])  # of every image D_g sees as many cells
    if labels is None:
        return zero, zero, number
    valid = (labels != IGNORED).sum()
    d_s = module.semantic_discriminator
    if d_s is None:
        return valid.to(zero), zero, number
    config = module.generator.config
    cells = nearest_labels(labels, feature_size(config, (images.shape[2], images.shape[3])))
    if isinstance(d_s, PixelDiscriminator):
        items = (cells != IGNORED).sum()
    else:
        seen = torch.zeros(len(cells), 256, dtype=torch.bool, device=cells.device)
        seen.scatter_(1, cells.flatten(1).long(), True)
        items = seen[:, : config.num_classes].sum()
    return valid.to(zero), items.to(zero), number


@functools.cache
def feature_size(config: ModelConfig, size: tuple[int, int]) -> tuple[int, int]:
    """(h,w) of the features of an image of `size` (H,W), from a run without data."""
    with torch.device("meta"), torch.no_grad():
        features, _ = make_backbone(config).eval()(torch.empty(1, 3, *size))
    return features.shape[2], features.shape[3]
