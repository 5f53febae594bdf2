"""The batches of `bench train`, data included: fastass's loader, or the AdaptSegNet baseline's.

The AdaptSegNet baseline has one `DataLoader` for each stream: PNGs as shipped, decoded at full
size by Pillow, resized, label ids mapped one after the other, float32, collated, channels first.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastass.bench.input.baselines import AdaptSegNetBaseline, in_processes
from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.loaders.batch import Batch, StepBatch
from fastass.pipelines.loaders.normalization import NORMALIZATIONS
from fastass.pipelines.loaders.order import sample_at
from fastass.runtime.device import Runtime
from fastass.tracking.terminal import reporter
from fastass.training.open_data import open_training_data


def engine_batches(config: Config, spec: MethodSpec, runtime: Runtime) -> Iterator[StepBatch]:
    """What the trainer feeds the engine with."""
    data, _ = open_training_data(config, reporter(plain=True))
    for batch in data.batches(0, spec, runtime.device):
        yield batch.to(runtime.device)


class Shuffled(torch.utils.data.Dataset[Any]):
    """The samples of another data set, each once per epoch, in an order of the epoch's own."""

    def __init__(self, dataset: AdaptSegNetBaseline, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Any:
        return self.dataset[sample_at(self.seed, "baseline", i, len(self.dataset.dataset))]


class ImagesAlone(AdaptSegNetBaseline):
    """The unlabelled stream: no label is read."""

    def __getitem__(self, i: int) -> Any:
        sample = self.dataset.samples[i % len(self.dataset)]
        assert isinstance(sample.image, Path)
        with Image.open(sample.image) as file:
            image = file.convert("RGB").resize(self.size, Image.Resampling.BICUBIC)
        levels = np.asarray(image, np.float32)[..., ::-1]
        levels = levels - np.array(NORMALIZATIONS["bgr"].mean, np.float32)
        return levels.transpose(2, 0, 1).copy()


def baseline_batches(config: Config, spec: MethodSpec, runtime: Runtime) -> Iterator[StepBatch]:
    """The AdaptSegNet baseline's loaders, `data.workers` processes for each stream."""
    data, _ = open_training_data(config, reporter(plain=True))
    d = config.data
    loaders: dict[str, Iterator[Any]] = {}

    def start(name: str, dataset: AdaptSegNetBaseline) -> None:
        shuffled = Shuffled(dataset, config.seed)
        loaders[name] = in_processes(shuffled, config.batch, d.workers)[0]

    if spec.source:
        start("source", AdaptSegNetBaseline(_as_shipped(data.source), d.source_size))
    target = _as_shipped(data.target)
    if spec.labelled:
        chosen = tuple(target.samples[i] for i in data.labelled)
        start("labelled", AdaptSegNetBaseline(replace(target, samples=chosen), d.target_size))
    if spec.global_:
        start("unlabelled", ImagesAlone(target, d.target_size))
    while True:
        yield StepBatch(**{name: _images(next(one), runtime) for name, one in loaders.items()})


def _as_shipped(dataset: object) -> Dataset:
    if not isinstance(dataset, Dataset):
        raise UserError("bench train: the AdaptSegNet baseline can't read packed data sets")
    return dataset


def _images(batch: Tensor | list[Tensor], runtime: Runtime) -> Batch:
    if isinstance(batch, torch.Tensor):
        return Batch(batch.to(runtime.device), None)
    pixels, labels = batch
    return Batch(pixels.to(runtime.device), labels.to(runtime.device))
