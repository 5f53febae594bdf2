"""Batches of random images on the device, for measuring a step without its data."""

import torch

from fastass.config.schema import Config
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.loaders.batch import Batch, StepBatch

PATCH = 16  # pixels of a label's squares: labels of natural scenes are large areas


def random_batch(
    config: Config, spec: MethodSpec, device: torch.device, channels_last: bool
) -> StepBatch:
    """One step's batch of `config`'s sizes; labels in squares, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(config.seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def images(size: tuple[int, int], labelled: bool) -> Batch:
        width, height = size
        pixels = torch.randn(
            config.batch, config.model.channels, height, width, generator=generator
        )
        squares = (config.batch, -(-height // PATCH), -(-width // PATCH))
        ids = torch.randint(0, config.model.num_classes, squares, generator=generator)
        ids[torch.rand(squares, generator=generator) < 0.1] = 255
        labels = ids.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, :height, :width]
        return Batch(
            pixels.to(device, memory_format=layout),
            labels.to(torch.uint8).contiguous().to(device) if labelled else None,
        )

    source, target = config.data.source_size, config.data.target_size
    return StepBatch(
        images(source, True) if spec.source else None,
        images(target, True) if spec.labelled else None,
        images(target, False) if spec.global_ or spec.mix else None,
    )
