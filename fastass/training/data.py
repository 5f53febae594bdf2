"""What a run reads: source, target, the labelled subset, and the feeds over them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fastass.config.schema import Config
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.datasets.layouts import Dataset
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.batch import StepBatch
from fastass.pipelines.loaders.evaluation import EvalBatch, EvalLoader
from fastass.pipelines.loaders.open_loader import open_loader
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.loaders.spec import StreamSpec
from fastass.pipelines.packed.dataset import PackedDataset

AnyDataset = Dataset | PackedDataset


@dataclass(frozen=True)
class TrainingData:
    """Everything a run reads. labelled: indices into the target's training images.

    rank, world: of this process among those that train together; each reads its own part of every
    global batch, and of the validation images.
    """

    config: Config
    source: AnyDataset | None
    target: AnyDataset
    val: AnyDataset
    labelled: tuple[int, ...]
    rank: int = 0
    world: int = 1

    @property
    def classes(self) -> ClassTable:
        return self.val.classes

    @property
    def labelled_names(self) -> tuple[str, ...]:
        names = open_reader(self.target).names
        return tuple(names[i] for i in self.labelled)

    @property
    def target_size(self) -> tuple[int, int]:
        return self.config.data.target_size

    @property
    def normalize(self) -> str:
        return self.config.data.normalize

    def batches(self, first: int, spec: MethodSpec, device: torch.device) -> Iterator[StepBatch]:
        """Endless batches of this rank from micro-step `first` on, with the streams of `spec`.

        Ranks × batch is what counts: 1 × 4, 2 × 2 and 4 × 1 see the same images, equally augmented.
        """
        c = self.config
        with open_loader(
            c.data.loader,
            self._streams(spec),
            seed=c.seed,
            rank=self.rank,
            world=self.world,
            workers=c.data.workers,
            on_bad_sample=c.data.on_bad_sample,
            device=str(device),
        ) as feed:
            yield from feed.batches(first)

    def val_batches(self) -> Iterator[EvalBatch]:
        """This rank's validation images, each once, at training size, its label at full size.

        All ranks together read every image exactly once; their numbers may differ by one.
        """
        d = self.config.data
        return iter(
            EvalLoader(
                self.val,
                d.target_size,
                d.normalize,
                rank=self.rank,
                world=self.world,
                workers=d.workers,
            )
        )

    def val_examples(self, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`count` validation images uint8 [H,W,3] and labels [H,W], spread over the set."""
        source = open_reader(self.val)
        for i in np.linspace(0, len(source) - 1, min(count, len(source))).astype(int):
            image = source.image(int(i))
            yield np.asarray(image), source.label(int(i), image.size)

    def _streams(self, spec: MethodSpec) -> dict[str, StreamSpec]:
        c, d = self.config, self.config.data
        streams = {}
        if spec.source:
            assert self.source is not None
            streams["source"] = StreamSpec(
                self.source, c.batch, d.source_size, d.normalize, self._augment(d.source_resize)
            )
        target = (self.target, c.batch, d.target_size, d.normalize, self._augment(d.target_resize))
        if spec.labelled:
            streams["labelled"] = StreamSpec(*target, indices=self.labelled)
        if spec.global_:
            streams["unlabelled"] = StreamSpec(*target, with_labels=False)
        return streams

    def _augment(self, resize: tuple[int, int] | None) -> Augment:
        d = self.config.data
        return Augment(
            mirror=d.mirror,
            scale=d.scale,
            resize=resize if d.scale else None,
            jitter=d.jitter,
            blur=d.blur,
        )

    def describe(self, spec: MethodSpec) -> str:
        """The lines that tell what is trained on, and which modules are off for want of labels."""
        parts = [f"source {len(self.source)} images"] if self.source is not None else []
        parts += [
            f"target {len(self.target)}, {len(self.labelled)} of them labelled",
            f"val {len(self.val)}",
            f"{len(self.classes)} classes",
            f"loader {self.config.data.loader}",
        ]
        line = f"{self.config.method}: " + " · ".join(parts)
        if "+" in self.config.method and not spec.semantic:
            line += "\nno labelled target images: the semantic module and L_seg(I_tl) are off"
        return line
