"""Evaluation: predict at training size, upsample to the label's size, count, take the IoU."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from fastass import kernels
from fastass.config.schema import NormStatistics
from fastass.errors import UserError
from fastass.evaluation.iou import mean_iou, per_class_iou
from fastass.inference.segmenter import Segmenter
from fastass.inference.views import SINGLE, Views, evaluating, probabilities
from fastass.models.deeplab import DeepLab
from fastass.models.domain_statistics import TargetStatistics
from fastass.pipelines.datasets.classes import ClassTable
from fastass.pipelines.loaders.evaluation import EvalBatch, EvalLoader
from fastass.pipelines.packed.dataset import AnyDataset
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import SINGLE_PROCESS, World


@dataclass(frozen=True, repr=False)
class Scores:
    """The result of one evaluation, in percent."""

    miou: float
    per_class_iou: dict[str, float | None]
    reported_classes: int
    reported_miou: float
    """Mean over the classes that the configuration reports (SYNTHIA: 13), or over all."""
    confusion: list[list[int]]
    """Pixels [C][C]: rows truth, columns prediction, in the order of `per_class_iou`."""
    norm_statistics: NormStatistics | None = None
    """The running statistics of batch norm that gave these; None where there is one kind."""
    by_statistics: dict[str, dict[str, float]] = field(default_factory=dict)
    """mIoU and mIoU of the reported classes with each kind of running statistics."""

    def __repr__(self) -> str:
        return f"<Scores mIoU {self.miou:.2f} %, {len(self.per_class_iou)} classes>"

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


def evaluate_segmenter(
    segmenter: Segmenter,
    data: AnyDataset,
    views: Views = SINGLE,
    size: tuple[int, int] | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Scores:
    """The scores of a trained network on labelled data, with each kind of its running statistics.

    size: (W,H) at which the network reads images (default: that of training). progress: see
    `confusion_of`; with two kinds of statistics it goes through the data twice. Raises UserError if
    the classes differ.
    """
    data = with_network_classes(data, segmenter.classes, data.root)
    at = views.read_at(size or segmenter.prepare.size)
    loader = EvalLoader(data, at, segmenter.prepare.normalize)

    def once() -> Scores:
        return evaluate(
            segmenter.generator,
            loader,
            segmenter.runtime,
            data.classes,
            segmenter.report,
            progress,
            views,
        )

    own = segmenter.norm_statistics or "mixed"
    return evaluate_both(once, segmenter.other_statistics, own=own)


def with_network_classes(data: AnyDataset, classes: ClassTable, root: str | Path) -> AnyDataset:
    """Labelled data with the classes that a network has, of which the data may have more.

    root: names the data in messages. Raises UserError if the classes differ.
    """
    if len(data.classes) > len(classes):
        data = data.with_classes(classes.names)
    if data.classes.names != classes.names:
        raise UserError(
            f"{root}: its classes ({', '.join(data.classes.names[:3])}, …) are not those of "
            f"the network ({', '.join(classes.names[:3])}, …)"
        )
    return data


def evaluate_both(
    once: Callable[[], Scores],
    other: TargetStatistics | None,
    *,
    own: NormStatistics = "mixed",
    judged: NormStatistics | None = None,
) -> Scores:
    """Evaluate a network with each of its two kinds of running statistics.

    once: evaluates it. own: the kind that its norms hold; `other` holds the other one, None if
    there is one kind. judged: the kind whose scores are returned, with the means of both
    (default: own). Where both kinds are equal, the network is evaluated once.
    """
    scores = once()
    if other is None:
        return scores
    kind: NormStatistics = "domain" if own == "mixed" else "mixed"
    found = {own: scores, kind: scores}
    if other.differ():
        with other.exchanged():
            found[kind] = once()
    means = {
        name: {"miou": found[name].miou, "reported_miou": found[name].reported_miou}
        for name in get_args(NormStatistics)
    }
    judged = judged or own
    return replace(found[judged], norm_statistics=judged, by_statistics=means)


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
