"""What a run reads: source, target, the labelled subset, and the loaders over them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from fastass.config.schema import DataConfig
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.datasets.bands import levels_of
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.batch import StepBatch
from fastass.pipelines.loaders.evaluation import EvalBatch, EvalLoader
from fastass.pipelines.loaders.normalization import Normalization
from fastass.pipelines.loaders.open_loader import open_loader
from fastass.pipelines.loaders.rare_class import RareClassOrder
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.loaders.spec import Loader, StreamSpec
from fastass.pipelines.packed.dataset import AnyDataset


@dataclass(frozen=True)
class TrainingData:
    """Everything a run reads.

    labelled: indices into the target's training images. batch: images per stream and rank. seed: of
    order and augmentation. channels: of the images. rank, world: this process and the number of
    processes that train together; each reads its own part of every global batch and of the
    validation images.
    rare_class: stream → its order, for streams with rare-class sampling.
    """

    config: DataConfig
    source: AnyDataset | None
    target: AnyDataset
    val: AnyDataset
    labelled: tuple[int, ...]
    batch: int
    seed: int
    channels: int = 3
    rank: int = 0
    world: int = 1
    rare_class: Mapping[str, RareClassOrder] = field(default_factory=dict)

    @property
    def classes(self) -> ClassTable:
        return self.val.classes

    @property
    def labelled_names(self) -> tuple[str, ...]:
        names = open_reader(self.target).names
        return tuple(names[i] for i in self.labelled)

    @property
    def target_size(self) -> tuple[int, int]:
        return self.config.target_size

    @property
    def normalize(self) -> Normalization:
        """Of images with `channels` channels."""
        return self.config.normalization(self.channels)

    def batches(self, first: int, spec: MethodSpec, device: torch.device) -> Iterator[StepBatch]:
        """Endless batches of this rank from micro-step `first` on, with the streams of `spec`.

        Only ranks × batch matters: 1 × 4, 2 × 2 and 4 × 1 read the same images, augmented alike.
        """
        with self.loader(spec, device) as loader:
            yield from loader.batches(first)

    def loader(self, spec: MethodSpec, device: torch.device) -> Loader:
        """A loader of the streams of `spec`; the caller closes it."""
        return open_loader(
            self.config.loader,
            self._streams(spec),
            seed=self.seed,
            rank=self.rank,
            world=self.world,
            workers=self.config.workers,
            on_bad_sample=self.config.on_bad_sample,
            device=str(device),
        )

    def val_batches(self) -> Iterator[EvalBatch]:
        """This rank's validation images, each once, at training size, its label at full size.

        All ranks together read every image exactly once; their numbers may differ by one.
        """
        return iter(
            EvalLoader(
                self.val,
                self.target_size,
                self.normalize,
                rank=self.rank,
                world=self.world,
                workers=self.config.workers,
            )
        )

    def val_examples(self, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`count` validation images uint8 [H,W,N] and labels [H,W], spread over the set."""
        reader = open_reader(self.val, self.channels)
        for i in np.linspace(0, len(reader) - 1, min(count, len(reader))).astype(int):
            image = reader.image(int(i))
            yield levels_of(image), reader.label(int(i), image.size)

    def _streams(self, spec: MethodSpec) -> dict[str, StreamSpec]:
        c, batch = self.config, self.batch
        streams = {}
        if spec.source:
            assert self.source is not None
            streams["source"] = StreamSpec(
                self.source,
                batch,
                c.source_size,
                self.normalize,
                self._augment(c.source_resize),
                rare_class=self.rare_class.get("source"),
            )
        target = (self.target, batch, c.target_size, self.normalize, self._augment(c.target_resize))
        if spec.labelled:
            order = self.rare_class.get("labelled")
            streams["labelled"] = StreamSpec(*target, indices=self.labelled, rare_class=order)
        if spec.global_ or spec.mix:
            streams["unlabelled"] = StreamSpec(*target, with_labels=False)
        return streams

    def _augment(self, resize: tuple[int, int] | None) -> Augment:
        c = self.config
        return Augment(
            mirror=c.mirror,
            scale=c.scale,
            resize=resize if c.scale else None,
            jitter=c.jitter,
            blur=c.blur,
        )

    def describe(self, method: str, spec: MethodSpec) -> str:
        """What is trained on, and which modules are off because there are no labels; 1–2 lines."""
        parts = [f"source {len(self.source)} images"] if self.source is not None else []
        parts += [
            f"target {len(self.target)}, {len(self.labelled)} of them labelled",
            f"val {len(self.val)}",
            f"{len(self.classes)} classes",
            f"loader {self.config.loader}",
        ]
        line = f"{method}: " + " · ".join(parts)
        if spec.mix:
            line += "\nself-training: a teacher labels target images, pieces of " + (
                "source and labelled target images are pasted"
                if spec.labelled
                else "source images are pasted"
            )
        if "csa" in method and not spec.semantic:  # ga+csa or ga+fcsa
            line += "\nno labelled target images: the semantic module and L_seg(I_tl) are off"
        return line
