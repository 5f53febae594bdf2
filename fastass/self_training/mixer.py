"""The mixed batch I_m of a step, and what self-training keeps from step to step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastass.config.schema import MixingConfig
from fastass.models.deeplab import DeepLab
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.pipelines.loaders.normalization import Normalization, normalization
from fastass.pipelines.loaders.order import positions
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.self_training import augment
from fastass.self_training.draw import MixDraws, draw
from fastass.self_training.paste import pasted_pixels
from fastass.self_training.teacher import follow, pseudo_labels


class SelfTraining:
    """Makes the mixed batches of a step, then updates the teacher.

    seed: of the random choices. normalize: of the images, see `StreamSpec`.
    """

    def __init__(
        self,
        teacher: DeepLab,
        generator: DeepLab,
        config: MixingConfig,
        *,
        seed: int,
        normalize: str | Normalization,
        world: World = SINGLE_PROCESS,
    ) -> None:
        self.teacher, self.generator, self.config = teacher, generator, config
        self.seed, self.normalization = seed, normalization(normalize)
        self.world = world
        self.updates = 0  # of the teacher: steps of the method
        self.places = self._places_of_rank
        self.shares: list[Tensor] = []  # [2] per batch since the last flush: sure, pasted

    def mixed(self, batches: Sequence[StepBatch]) -> list[Batch]:
        """The mixed batch of each batch of a step. In the method's first step the teacher is G."""
        if self.updates == 0:
            self.teacher.load_state_dict(self.generator.state_dict())
        sizes = [len(b.unlabelled.images) for b in batches if b.unlabelled is not None]
        places = self.places(self.updates, sizes)
        return [self.mix(batch, where) for batch, where in zip(batches, places, strict=True)]

    @torch.no_grad()
    def mix(self, batch: StepBatch, places: range) -> Batch:
        """I_m of one batch. Image i takes its pieces from image i of the other streams.

        places: of its images in the endless sequence of all of the method's images.
        """
        assert batch.unlabelled is not None
        clean = batch.unlabelled.images
        labels, confident = pseudo_labels(self.teacher, clean, self.config.confidence)
        quality = confident / (labels.shape[1] * labels.shape[2])
        draws = draw(self.seed, places, self.teacher.config.num_classes)
        images, labels, pasted = self._pasted(batch, labels, draws)
        images, labels, pasted = self._augmented(images, labels, pasted, draws)
        self.shares.append(torch.stack([quality.mean(), pasted.sum() / pasted.numel()]))
        return Batch(images, labels, pasted=pasted, confidence=quality)

    def follow(self) -> None:
        """Update the teacher, after the optimizer's step."""
        follow(self.teacher, self.generator, self.config.decay, self.updates)
        self.updates += 1

    def flush(self) -> dict[str, float]:
        """Means since the last flush, over all ranks: of the confidence q and of the share of
        pasted pixels. A collective; empty if there was no mixed batch."""
        if not self.shares:
            return {}
        mean = self.world.sum(torch.stack(self.shares).mean(0)) / self.world.size
        self.shares.clear()
        return dict(zip(("confidence", "pasted"), mean.tolist(), strict=True))

    def _places_of_rank(self, update: int, sizes: Sequence[int]) -> list[range]:
        """The places of the batches, of these sizes, that this rank takes in an update."""
        rank, ranks, first = self.world.rank, self.world.size, update * len(sizes)
        return [positions(first + n, size, rank, ranks) for n, size in enumerate(sizes)]

    def _pasted(
        self, batch: StepBatch, labels: Tensor, draws: MixDraws
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(images, labels, pasted pixels): the source's pieces first, the target's over them."""
        assert batch.unlabelled is not None
        images = batch.unlabelled.images
        pasted = torch.zeros_like(labels, dtype=torch.bool)
        for donors, donor_labels, keys in self._donors(batch, draws):
            mask = pasted_pixels(donor_labels, augment.to_device(keys, labels.device))
            images = torch.where(mask[:, None], donors, images)
            labels = torch.where(mask, donor_labels, labels)
            pasted = pasted | mask
        return images, labels, pasted

    def _donors(self, batch: StepBatch, draws: MixDraws) -> list[tuple[Tensor, Tensor, np.ndarray]]:
        """(images, labels, keys of the classes) to paste from, all of the target's size."""
        donors = []
        if batch.source is not None and self.config.paste != "labelled":
            assert batch.source.labels is not None
            assert batch.unlabelled is not None
            size = batch.unlabelled.images.shape[2:]
            images, labels = _cropped(batch.source.images, batch.source.labels, size, draws)
            donors.append((images, labels, draws.source_keys))
        if batch.labelled is not None and self.config.paste != "source":
            assert batch.labelled.labels is not None
            donors.append((batch.labelled.images, batch.labelled.labels, draws.labelled_keys))
        return donors

    def _augmented(
        self, images: Tensor, labels: Tensor, pasted: Tensor, draws: MixDraws
    ) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        if config.zoom > 1:
            zooms = zip(1 + (config.zoom - 1) * draws.zoom, draws.zoom_x, draws.zoom_y, strict=True)
            size = (images.shape[2], images.shape[3])
            boxes = [augment.zoom_box(size, *zoom) for zoom in zooms]
            images = augment.magnify_images(images, boxes)
            labels = augment.magnify_maps(labels, boxes)
            pasted = augment.magnify_maps(pasted, boxes)
        if config.color_jitter:
            maps = augment.color_maps(draws.color, config.color_jitter, self.normalization)
            matrix, offset = (augment.to_device(m, images.device).to(images.dtype) for m in maps)
            images = augment.recolor(images, matrix, offset, self.normalization)
        if config.blur_sigma:
            low = min(config.blur_sigma, MIN_SIGMA)
            sigmas = np.where(
                draws.blurred < 0.5, low + (config.blur_sigma - low) * draws.sigma, 0.0
            )
            images = augment.blur(images, sigmas.tolist())
        return images.contiguous(memory_format=torch.channels_last), labels, pasted

    def state(self) -> dict[str, Any]:
        """What the next step depends on beside the teacher's weights."""
        return {"updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.updates = state["updates"]


MIN_SIGMA = 0.15  # pixels; less changes nothing


def _cropped(
    images: Tensor, labels: Tensor, size: Sequence[int], draws: MixDraws
) -> tuple[Tensor, Tensor]:
    """A region of `size` (H, W) of each image and its labels, placed at random."""
    height, width = size
    tops = (draws.crop_y * (images.shape[2] - height + 1)).astype(int)
    lefts = (draws.crop_x * (images.shape[3] - width + 1)).astype(int)
    boxes = [np.s_[..., y : y + height, x : x + width] for y, x in zip(tops, lefts, strict=True)]
    return (
        torch.stack([image[box] for image, box in zip(images, boxes, strict=True)]),
        torch.stack([label[box] for label, box in zip(labels, boxes, strict=True)]),
    )
