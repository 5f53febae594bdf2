"""Evaluation: predict at training size, upsample to the label's size, count, take the IoU."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastass import kernels
from fastass.evaluation.iou import mean_iou, per_class_iou
from fastass.inference.views import SINGLE, Views, evaluating, probabilities
from fastass.models.deeplab import DeepLab
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.loaders.evaluation import EvalBatch
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import SINGLE_PROCESS, World


@dataclass(frozen=True)
class Scores:
    """The result of one evaluation, in percent."""

    miou: float
    per_class_iou: dict[str, float | None]
    reported_classes: int
    reported_miou: float
    """Mean over the classes that the configuration reports (SYNTHIA: 13), or over all."""
    confusion: list[list[int]]
    """Pixels [C][C]: rows truth, columns prediction, in the order of `per_class_iou`."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def evaluate(
    generator: DeepLab,
    batches: Iterable[EvalBatch],
    runtime: Runtime,
    classes: ClassTable,
    report: Sequence[str] = (),
    progress: Callable[[int], None] = lambda images: None,
    views: Views = SINGLE,
    world: World = SINGLE_PROCESS,
) -> Scores:
    """IoU of the generator over all batches of all ranks.

    Raises UserError when no class was evaluated.
    """
    counts = confusion_of(generator, batches, runtime, progress, views)
    counts = world.sum(counts)
    per_class = per_class_iou(counts, classes.names)
    return Scores(
        miou=mean_iou(per_class),
        per_class_iou=per_class,
        reported_classes=len(report or per_class),
        reported_miou=mean_iou(per_class, report),
        confusion=counts.tolist(),
    )


@torch.inference_mode()
def confusion_of(
    generator: DeepLab,
    batches: Iterable[EvalBatch],
    runtime: Runtime,
    progress: Callable[[int], None] = lambda images: None,
    views: Views = SINGLE,
) -> Tensor:
    """Confusion counts [C,C] int64 on the CPU (rows truth, columns prediction).

    batches: images at training size (that of the largest scale of `views`), labels uint8 at their
    full size. The generator's mode does not change. `progress` is called with the number of images
    of each batch; it may raise an exception to stop.
    """
    classes, corners = generator.config.num_classes, generator.config.align_corners
    total = torch.zeros(classes, classes, dtype=torch.int64, device=runtime.device)
    with evaluating(generator):
        for batch in batches:
            assert batch.labels is not None
            labels = batch.labels.to(runtime.device, non_blocking=True)
            if views.single:
                images = batch.images.to(runtime.device, non_blocking=True)
                with runtime.autocast():
                    scores = generator(images).scores
            else:  # already at the labels' size
                size = (labels.shape[1], labels.shape[2])
                scores = probabilities(generator, batch.images, size, views, runtime)
            total += kernels.upsample_confusion(scores, labels, align_corners=corners)
            progress(batch.images.shape[0])
    return total.cpu()
