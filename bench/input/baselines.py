"""The loaders that ours are compared with: the AdaptSegNet baseline, and a sensible one by hand."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fastass.pipelines.datasets import layouts
from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.loaders.normalization import NORMALIZATIONS
from fastass.pipelines.packed.dataset import PackedDataset

_ENDLESS = 1 << 40


class AdaptSegNetBaseline(Dataset[tuple[np.ndarray, np.ndarray]]):
    """What AdaptSegNet does for a sample of files.

    Decode both at full size, resize, map the label ids one after the other, float32 BGR minus the
    mean, channels first.
    """

    def __init__(self, dataset: layouts.Dataset, size: tuple[int, int]) -> None:
        self.dataset, self.size = dataset, size

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.dataset.samples[i % len(self.dataset)]
        assert isinstance(sample.image, Path)
        assert isinstance(sample.label, Path)
        with Image.open(sample.image) as file:
            image = file.convert("RGB").resize(self.size, Image.Resampling.BICUBIC)
        with Image.open(sample.label) as file:
            raw = np.asarray(file.resize(self.size, Image.Resampling.NEAREST), np.float32)
        label = np.full(raw.shape, IGNORE, np.float32)
        for value, train_id in self.dataset.classes.train_ids.items():
            if train_id != IGNORE:
                label[raw == value] = train_id
        levels = np.asarray(image, np.float32)[..., ::-1]
        levels = levels - np.array(NORMALIZATIONS["bgr"].mean, np.float32)
        return levels.transpose(2, 0, 1).copy(), label


class PackedByHand(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A sensible loader: packed records at training size, Pillow, tensor operations."""

    def __init__(self, dataset: PackedDataset) -> None:
        self.dataset = dataset
        self.mean = torch.tensor(NORMALIZATIONS["bgr"].mean)[:, None, None]

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        i %= len(self.dataset)
        levels = torch.from_numpy(self.dataset.image(i).copy()).permute(2, 0, 1).flip(0)
        label = self.dataset.label(i)
        assert label is not None
        return levels.float() - self.mean, torch.from_numpy(label.copy())


def in_processes(
    dataset: Dataset[Any], batch: int, workers: int
) -> tuple[Iterator[Any], Callable[[], float]]:
    """(batches of torch's DataLoader, a clock of the CPU seconds of this process and its workers).

    The workers are spawned: a fork hangs where OpenMP ran before.
    """
    loader = DataLoader(dataset, batch, num_workers=workers, multiprocessing_context="spawn")
    batches = iter(loader)
    workers_ids = [worker.pid for worker in getattr(batches, "_workers", [])]
    return batches, lambda: sum(map(_cpu_seconds, [os.getpid(), *workers_ids]))


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads (Linux), NaN elsewhere."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
